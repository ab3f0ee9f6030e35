"""One reader function per format: it converts a row to a `Question`. The format is detected from the fields of a row.

| format | used by | detected by |
|---|---|---|
| `search-r1` | Search-R1, ZeroSearch; rows of SkyRL and verl too | `reward_model`, `reward_spec` or `data_source` |
| `flashrag` | FlashRAG | `golden_answers` |
| `hotpotqa` | HotpotQA, with paragraphs | `context` and `supporting_facts` |
| `2wikimultihopqa` | 2WikiMultihopQA, with paragraphs | the fields of `hotpotqa`, and `evidences` |
| `musique` | MuSiQue, with paragraphs | `paragraphs` |
| `plain` | anything with a question and its answers | a question and answers, under one of many names |

Names of columns are compared without case, blanks and underscores: "Final answer" is `final_answer`.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ...types import Dataset, Json, Paragraph, Question
from .columns import Columns, Fields, as_named, find_column, first_of, missing, no_column, renamed
from .fields import (
    answers,
    flagged_paragraphs,
    mapping,
    messages,
    supporting_titles,
    text,
    titled_sentences,
    unpacked,
    written,
)
from .packed import plain, unpack
from .rows import NumberedRow, OnBadRow, Row, RowError, RowReader

Reader = Callable[[Row], Question]

IDS = ("id", "question_id", "idx", "qid", "task_id", "example_id")
QUESTIONS = ("question", "problem", "query", "utterance", "raw_question")
ANSWERS = (
    *("answers", "answer", "golden_answers", "gold_answers", "target", "possible_answers", "final_answer"),
    *("target_value", "annotations", "parses"),
)
ALIASES = ("answer_aliases", "aliases")
PROMPTS = ("prompt",)
_SOURCES = ("data_source", "dataset")
_REWARDS = ("reward_model", "reward_spec")

COLUMNS: Fields = {
    "id": ("id", IDS),
    "question": ("question", QUESTIONS),
    "answers": ("golden_answers", ANSWERS),
    "aliases": ("answer_aliases", ALIASES),
    "data_source": ("data_source", _SOURCES),
    "prompt": ("prompt", PROMPTS),
}
"""The fields of a question that a caller may map to columns."""


def detect_format(row: Row) -> str:
    """The name of the format of a row.

    Raises:
        RowError: it is unknown, because the row has no question; the message names the nearest column.
    """
    if isinstance(_unpacked(row.get("paragraphs")), list):
        return "musique"
    if not missing(row.get("context")) and not missing(row.get("supporting_facts")):
        return "hotpotqa" if missing(row.get("evidences")) else "2wikimultihopqa"
    if any(not missing(row.get(name)) for name in (*_REWARDS, "data_source")):
        return "search-r1"
    if first_of(row, QUESTIONS) and not missing(row.get("golden_answers")):
        return "flashrag"
    if find_column(row, (*QUESTIONS, *PROMPTS)):
        return "plain"
    raise no_column(row, (*QUESTIONS, *PROMPTS), "question", "a question")


def _unpacked(value: Json) -> Json:
    try:
        return unpack(value, "")
    except RowError:
        return value


def _build(
    row: Row,
    golds: tuple[str, ...],
    *,
    paragraphs: tuple[Paragraph, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    split: str = "",
    name: str | None = None,
) -> Question:
    """A question with the fields shared by all formats. The caller fills in an empty id, dataset or split."""
    key = first_of(row, IDS)
    name = name or ("" if key is None else written(plain(row[key])))
    source = first_of(row, _SOURCES)
    dataset = row[source].strip() if source is not None and isinstance(row[source], str) else ""
    prompt = first_of(row, PROMPTS)
    asked = None if prompt is None else messages(row[prompt])
    return Question(name, _question(row), golds, dataset, split, paragraphs, metadata or None, asked)


def _question(row: Row) -> str:
    """The question in its own column, in verl's `extra_info`, or at the end of a prompt."""
    field = first_of(row, QUESTIONS)
    if field is not None:
        nested = _unpacked(row[field])
        if isinstance(nested, Mapping) and "text" in nested:  # NarrativeQA
            return text(nested["text"], f"{field}.text")
        return text(row[field], field)
    told = mapping(row, "extra_info").get("question")
    if isinstance(told, str) and told.strip():
        return text(told, "extra_info.question")
    prompt = first_of(row, PROMPTS)
    if prompt is not None:
        return _prompted_question(row[prompt], prompt)
    field = find_column(row, QUESTIONS)
    if field is not None:
        return text(row[field], field)
    raise no_column(row, (*QUESTIONS, *PROMPTS), "question", "a question")


_LABELS = [
    re.compile(rf"{place}question:", re.IGNORECASE | re.MULTILINE) for place in (r"^[^\S\n]*+", r"[.!?:;>][^\S\n]{0,8}")
]
_LABEL_IN_SENTENCE = re.compile(r"\bquestion:", re.IGNORECASE)
_ASKING = re.compile(r"\b(?:who|whom|whose|what|which|when|where|why|how)\b", re.IGNORECASE)


def _prompted_question(prompt: Json, field: str) -> str:
    """The question at the end of a prompt: the text after the label "Question:" in the last user turn."""
    turns = unpack(prompt, field)
    if isinstance(turns, str):
        content: Json = turns
    elif isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
        content = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), None)
    else:
        raise RowError("question", "a string, or a `prompt` that ends with the question", prompt)
    prompted = text(content, field)
    return text(_after_label(prompted), field)


def _after_label(prompt: str) -> str:
    """The text after the label "Question:"; the whole prompt if it has none.

    The label is the last one at the start of a line, else the last one after a sentence or a tag, else the first one in
    a sentence such as "Answer this question: ...". In a sentence that asks something it belongs to the question ("Which
    film asks the question: who am I?").
    """
    for label in _LABELS:
        parts = label.split(prompt)
        if len(parts) > 1:
            return parts[-1]
    found = _LABEL_IN_SENTENCE.search(prompt)
    if found is None or _ASKING.search(re.split(r"[.!?\n]", prompt[: found.start()])[-1]):
        return prompt
    return prompt[found.end() :]


def _golds(row: Row) -> tuple[str, ...]:
    field = first_of(row, ANSWERS)
    golds = _numbered_answers(row) if field is None else answers(row[field], field)
    more = first_of(row, ALIASES)
    if more is None or _unpacked(row[more]) in ([], ""):
        return golds
    return tuple(dict.fromkeys((*golds, *answers(row[more], more))))


def _numbered_answers(row: Row) -> tuple[str, ...]:
    """The answers in `answer1`, `answer2`, ... (NarrativeQA's table)."""
    numbered = [name for name in row if isinstance(name, str) and re.fullmatch(r"(?i)answer[ _]?\d+", name)]
    given = [row[name] for name in numbered if not missing(row[name])]
    if given:
        return answers(given, numbered[0])
    field = find_column(row, ANSWERS)
    if field is not None:
        return answers(row[field], field)
    raise no_column(row, ANSWERS, "answers", "answers")


def read_plain(row: Row) -> Question:
    """A question and its answers; every other field becomes metadata."""
    used = {first_of(row, names) for names in (IDS, QUESTIONS, ANSWERS, ALIASES, _SOURCES, PROMPTS)}
    metadata = {key: plain(value) for key, value in row.items() if key not in used and not missing(value)}
    return _build(row, _golds(row), metadata=_with_supporting(metadata))


def read_search_r1(row: Row) -> Question:
    """`question` or the end of `prompt`; `golden_answers` (FlashRAG too) or `reward_model.ground_truth`."""
    extra = mapping(row, "extra_info")
    source, index = row.get("data_source"), extra.get("index")
    numbered = first_of(row, IDS) is None and not missing(index)
    metadata = {key: value for key, value in mapping(row, "metadata").items() if value is not None}
    if extra:
        metadata["extra_info"] = extra
    return _build(
        row,
        _rewarded_answers(row),
        split=str(extra.get("split") or ""),
        name=f"{source or 'row'}-{written(index)}" if numbered else None,
        metadata=_with_supporting(metadata),
    )


def _with_supporting(metadata: dict[str, Json]) -> dict[str, Json]:
    """The metadata with `supporting`, the titles of its `supporting_facts`, for `Question.supporting`."""
    facts = metadata.get("supporting_facts")
    if missing(facts) or "supporting" in metadata:
        return metadata
    try:
        return metadata | {"supporting": sorted(supporting_titles(facts, "supporting_facts"))}
    except RowError:
        return metadata  # a column of this name that holds something else


def _rewarded_answers(row: Row) -> tuple[str, ...]:
    """`golden_answers`, else the ground truth of the reward, else answers under another name."""
    given = _unpacked(row.get("golden_answers"))
    if not missing(given) and given not in ([], ""):
        return answers(given, "golden_answers")
    field = first_of(row, _REWARDS)
    if field is None and first_of(row, ANSWERS):
        return _golds(row)
    reward = unpacked(row[field], field) if field else {}
    if not isinstance(reward, Mapping):
        raise RowError(field or "", "a dict with 'ground_truth'", reward)
    if reward and "ground_truth" not in reward:
        raise no_column(reward, [f"{field}.ground_truth"], "answers", "answers", within=f"{field}.")
    return answers(reward.get("ground_truth"), f"{field or 'reward_model'}.ground_truth")


def read_hotpotqa(row: Row) -> Question:
    """`question`, `answer`, `context` and `supporting_facts` (lists of pairs, or dicts of lists)."""
    names = supporting_titles(row.get("supporting_facts"), "supporting_facts")
    paragraphs = tuple(
        Paragraph(title, body, title in names) for title, body in titled_sentences(row.get("context"), "context")
    )
    metadata = {key: plain(row[key]) for key in ("type", "level", "evidences") if not missing(row.get(key))}
    return _build(row, _golds(row), paragraphs=paragraphs, metadata=metadata)


def read_musique(row: Row) -> Question:
    """`question`, `answer`, `answer_aliases` and `paragraphs`; rows marked as not answerable are bad rows."""
    answerable = plain(row.get("answerable"))
    if answerable is False or str(answerable).strip().lower() == "false":
        raise RowError("answerable", "a question that its paragraphs answer", answerable)
    steps = _unpacked(row.get("question_decomposition"))
    metadata = {"hops": len(steps)} if isinstance(steps, list) and steps else None
    return _build(
        row, _golds(row), paragraphs=flagged_paragraphs(row.get("paragraphs"), "paragraphs"), metadata=metadata
    )


FORMATS: Mapping[str, Reader] = {
    "search-r1": read_search_r1,
    "flashrag": read_search_r1,
    "hotpotqa": read_hotpotqa,
    "2wikimultihopqa": read_hotpotqa,
    "musique": read_musique,
    "plain": read_plain,
}
"""Format name -> reader function."""


def read_questions(
    rows: Iterable[NumberedRow],
    *,
    where: str,
    name: str,
    split: str,
    format: str | None = None,
    on_bad_row: OnBadRow = "raise",
    columns: Columns | None = None,
    limit: int | None = None,
) -> Dataset:
    """Read rows until `limit` questions are found.

    Args:
        rows: rows with their places and numbers.
        where: the file or the hub name, for error messages.
        name: name of the dataset; also the prefix of ids created for rows without an id.
        split: the split of rows that do not name one.
        format: one of `FORMATS`; None: detected from the first row with a known format.
        on_bad_row: `"raise"` an error, or `"skip"` bad rows and count them.
        columns: field -> the column that holds it, for rows with other names than those of the formats.
        limit: maximum number of questions to read; None: all.

    Raises:
        ConfigError: `on_bad_row` or `limit` is invalid.
        DataError: a row is bad, the format is unknown, or there are no questions. The message names the file, the row,
            the field, and the nearest column.
    """
    reader, convert = RowReader(on_bad_row, limit), QuestionReader(name, split, format, columns or {})
    with _paused_collector():
        questions = list(reader.read(rows, convert, where=where, what="questions"))
    metadata = {"format": convert.format or "", "source": where}
    return Dataset(name, split, with_distinct_ids(questions), skipped_rows=reader.skipped, metadata=metadata)


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Python's garbage collector looks through all records again and again while their number grows, in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class QuestionReader:
    """Converts the rows of a dataset to questions; remembers the format, and all questions to refuse copies of them."""

    def __init__(self, name: str, split: str, format: str | None, columns: Columns) -> None:
        self.format = format
        self._name, self._split, self._columns = name, split, columns
        self._places: dict[tuple[object, ...], str] = {}

    def __call__(self, row: NumberedRow) -> Question:
        """The question of a row that is not a copy of an earlier one.

        Raises:
            RowError: the row is bad or a copy.
        """
        question = self.convert(row)
        key = (question.dataset, question.id, question.text, question.answers)
        place = self._places.setdefault(key, row.place)
        if place is not row.place:
            raise RowError("id", f"a row that is not a copy of another ({place})", question.id)
        return question

    def convert(self, row: NumberedRow) -> Question:
        """The question of a row, with a value for every field; it may be a copy of another.

        Raises:
            RowError: the row is bad.
        """
        try:
            question = row.content if isinstance(row.content, Question) else self._read(row.content)
        except RowError as problem:
            raise as_named(problem, self._columns, COLUMNS) from None
        return Question(
            question.id or f"{self._name}-{row.number}",
            question.text,
            question.answers,
            question.dataset or self._name,
            question.split or self._split,
            question.paragraphs,
            question.metadata,
            question.prompt,
        )

    def _read(self, row: Row) -> Question:
        row = renamed(row, self._columns, COLUMNS) if self._columns else row
        self.format = self.format or detect_format(row)
        return FORMATS[self.format](row)


def with_distinct_ids(questions: list[Question]) -> list[Question]:
    """Questions with unique ids: a repeated id gets its dataset's name as a prefix, and then, if need be, a number.

    Ids repeat in files that were merged from several datasets.
    """
    if len({question.id for question in questions}) < len(questions):
        questions = [replace(question, id=f"{question.dataset}/{question.id}") for question in questions]
    taken = {question.id for question in questions}
    if len(taken) == len(questions):
        return questions
    distinct, used = [], set[str]()
    for question in questions:
        name, count = question.id, 1
        while name in used or (count > 1 and name in taken):
            count += 1
            name = f"{question.id}#{count}"
        used.add(name)
        distinct.append(replace(question, id=name))
    return distinct
