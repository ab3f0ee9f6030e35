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

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import DataError, sentence
from ...types import Json, Paragraph, Question
from .columns import Columns, cell, find_column, first_of, missing, no_column
from .fields import (
    answers,
    flagged_paragraphs,
    mapping,
    plain,
    supporting_titles,
    text,
    titled_sentences,
    unpacked,
    written,
)
from .packed import unpack
from .rows import NumberedRow, OnBadRow, Row, RowError

Reader = Callable[[Row], Question]

_IDS = ("id", "question_id", "idx", "qid", "task_id", "example_id")
_QUESTIONS = ("question", "problem", "query", "utterance")
_ANSWERS = (
    *("answers", "answer", "golden_answers", "gold_answers", "target", "possible_answers", "final_answer"),
    *("target_value", "annotations"),
)
_ALIASES = ("answer_aliases", "aliases")
_SOURCES = ("data_source", "dataset")
_REWARDS = ("reward_model", "reward_spec")

COLUMNS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "id": ("id", _IDS),
    "question": ("question", _QUESTIONS),
    "answers": ("golden_answers", _ANSWERS),
    "aliases": ("answer_aliases", _ALIASES),
    "data_source": ("data_source", _SOURCES),
}
"""Field that a caller may map to a column -> the name that every reader knows, and all names that it replaces."""


def detect_format(row: Row) -> str | None:
    """The name of the format of a row, or None if it is unknown."""
    if isinstance(plain(_unpacked(row.get("paragraphs"))), list):
        return "musique"
    if not missing(row.get("context")) and not missing(row.get("supporting_facts")):
        return "hotpotqa" if missing(row.get("evidences")) else "2wikimultihopqa"
    if any(not missing(row.get(name)) for name in (*_REWARDS, "data_source")):
        return "search-r1"
    if first_of(row, _QUESTIONS) and not missing(row.get("golden_answers")):
        return "flashrag"
    if find_column(row, (*_QUESTIONS, "prompt")):
        return "plain"
    return None


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
    key = first_of(row, _IDS)
    name = name or ("" if key is None else written(plain(row[key])))
    source = first_of(row, _SOURCES)
    dataset = row[source].strip() if source is not None and isinstance(row[source], str) else ""
    return Question(name, _question(row), golds, dataset, split, paragraphs, metadata or None)


def _question(row: Row) -> str:
    """The question in its own column, in verl's `extra_info`, or at the end of a prompt."""
    field = first_of(row, _QUESTIONS)
    if field is not None:
        nested = plain(_unpacked(row[field]))
        if isinstance(nested, Mapping) and "text" in nested:  # NarrativeQA
            return text(nested["text"], f"{field}.text")
        return text(row[field], field)
    told = mapping(row, "extra_info").get("question")
    if isinstance(told, str) and told.strip():
        return text(told, "extra_info.question")
    prompt = first_of(row, ("prompt",))
    if prompt is not None:
        return _prompted_question(row[prompt], prompt)
    field = find_column(row, _QUESTIONS)
    if field is not None:
        return text(row[field], field)
    raise no_column(row, (*_QUESTIONS, "prompt"), "question", "a question")


_LABELS = [
    re.compile(rf"{place}question:", re.IGNORECASE | re.MULTILINE)
    for place in (r"^[^\S\n]*+", r"[.!?:;>][^\S\n]{0,8}", r"\A(?s:.*?)\b")
]
"""The label before the question of a prompt: the last one at the start of a line, else the last one after a sentence or
a tag, else the first one. Inside a sentence it is part of the question ("who hosts Any Question: The Debate?")."""


def _prompted_question(prompt: Json, field: str) -> str:
    """The question at the end of a prompt: the text after the label "Question:" in the last user turn."""
    turns = plain(unpack(plain(prompt), field))
    if isinstance(turns, str):
        content: Json = turns
    elif isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
        content = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), None)
    else:
        raise RowError("question", "a string, or a `prompt` that ends with the question", prompt)
    prompted = text(content, field)
    parts = (label.split(prompted) for label in _LABELS)
    return text(next((found[-1] for found in parts if len(found) > 1), prompted), field)


def _golds(row: Row) -> tuple[str, ...]:
    field = first_of(row, _ANSWERS)
    golds = _numbered_answers(row) if field is None else answers(row[field], field)
    more = first_of(row, _ALIASES)
    if more is None or plain(_unpacked(row[more])) in ([], ""):
        return golds
    return tuple(dict.fromkeys((*golds, *answers(row[more], more))))


def _numbered_answers(row: Row) -> tuple[str, ...]:
    """The answers in `answer1`, `answer2`, ... (NarrativeQA's table)."""
    numbered = [name for name in row if isinstance(name, str) and re.fullmatch(r"(?i)answer[ _]?\d+", name)]
    given = [row[name] for name in numbered if not missing(row[name])]
    if given:
        return answers(given, numbered[0])
    field = find_column(row, _ANSWERS)
    if field is not None:
        return answers(row[field], field)
    raise no_column(row, _ANSWERS, "answers", "answers")


def read_plain(row: Row) -> Question:
    """A question and its answers; every other field becomes metadata."""
    used = {first_of(row, names) for names in (_IDS, _QUESTIONS, _ANSWERS, _ALIASES, _SOURCES)}
    metadata = {key: plain(value) for key, value in row.items() if key not in used and not missing(value)}
    return _build(row, _golds(row), metadata=metadata)


def read_flashrag(row: Row) -> Question:
    """`id`, `question`, `golden_answers`, and optionally `metadata`."""
    return _build(row, answers(row.get("golden_answers"), "golden_answers"), metadata=mapping(row, "metadata"))


def read_search_r1(row: Row) -> Question:
    """`question` or the end of `prompt`; `golden_answers` or `reward_model.ground_truth`; other fields are optional."""
    extra = mapping(row, "extra_info")
    source, index = row.get("data_source"), extra.get("index")
    numbered = first_of(row, _IDS) is None and not missing(index)
    metadata = {key: value for key, value in mapping(row, "metadata").items() if value is not None}
    return _build(
        row,
        _rewarded_answers(row),
        split=str(extra.get("split") or ""),
        name=f"{source or 'row'}-{written(index)}" if numbered else None,
        metadata=metadata,
    )


def _rewarded_answers(row: Row) -> tuple[str, ...]:
    """`golden_answers`, else the ground truth of the reward, else answers under another name."""
    given = plain(_unpacked(plain(row.get("golden_answers"))))
    if not missing(given) and given not in ([], ""):
        return answers(given, "golden_answers")
    field = first_of(row, _REWARDS)
    if field is None and first_of(row, _ANSWERS):
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
    steps = plain(_unpacked(row.get("question_decomposition")))
    metadata = {"hops": len(steps)} if isinstance(steps, list) and steps else None
    return _build(
        row, _golds(row), paragraphs=flagged_paragraphs(row.get("paragraphs"), "paragraphs"), metadata=metadata
    )


FORMATS: Mapping[str, Reader] = {
    "search-r1": read_search_r1,
    "flashrag": read_flashrag,
    "hotpotqa": read_hotpotqa,
    "2wikimultihopqa": read_hotpotqa,
    "musique": read_musique,
    "plain": read_plain,
}
"""Format name -> reader function."""


@dataclass(frozen=True)
class ReadQuestions:
    """The questions of a dataset, and what reading them has found."""

    questions: list[Question]
    format: str
    skipped: int = 0
    first_problem: str = ""
    """The error of the first skipped row, with its place."""


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
) -> ReadQuestions:
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
        DataError: a row is bad, the format is unknown, or there are no questions. The message names the file, the row,
            the field, and the nearest column.
    """
    questions: list[Question] = []
    seen: dict[tuple[str, str], list[tuple[Question, str]]] = {}
    skipped, first_problem = 0, ""
    for place, number, content in rows:
        try:
            if isinstance(content, RowError):
                raise content
            if isinstance(content, Question):
                question = content
            else:
                row = _renamed(content, columns) if columns else content
                format = format or _format_of(row)
                question = FORMATS[format](row)
            question = replace(
                question,
                id=question.id or f"{name}-{number}",
                dataset=question.dataset or name,
                split=question.split or split,
            )
            earlier = seen.setdefault((question.dataset, question.id), [])
            for other, other_place in earlier:
                if (other.text, other.answers) == (question.text, question.answers):
                    raise RowError("id", f"a row that is not a copy of another ({other_place})", question.id)
            earlier.append((question, place))
        except RowError as problem:
            message = f"{place}: {_as_named(problem, columns or {})}"
            if on_bad_row == "raise":
                raise DataError(f'{sentence(message)} on_bad_row="skip" leaves such rows out.') from None
            skipped, first_problem = skipped + 1, first_problem or message
            continue
        questions.append(question)
        if len(questions) == limit:
            break
    if not questions:
        raise DataError(
            f"{where} has no usable row: all {skipped} were skipped. The first problem: {first_problem}"
            if skipped
            else f"{where} is empty: it has no questions"
        )
    return ReadQuestions(with_distinct_ids(questions), format or "", skipped, first_problem)


def _renamed(row: Row, columns: Columns) -> Row:
    """The row with the caller's columns under the names that the readers know, in place of any others of that kind."""
    given = {}
    for field, column in columns.items():
        cells = [cell(row, name, field) for name in ([column] if isinstance(column, str) else column)]
        given[COLUMNS[field][0]] = cells[0] if isinstance(column, str) else [c for c in cells if not missing(c)]
    replaced = {name for column in columns.values() for name in ([column] if isinstance(column, str) else column)}
    kept = {name: value for name, value in row.items() if name not in replaced}
    for field in columns:
        while (old := find_column(kept, COLUMNS[field][1])) is not None:
            del kept[old]
    return kept | given


def _as_named(problem: RowError, columns: Columns) -> RowError:
    """The error with the name of the caller's column in place of the one that the readers know."""
    if problem.words:  # it is about columns, and names them
        return problem
    for field, column in columns.items():
        name = COLUMNS[field][0]
        if problem.field == name or problem.field.startswith(f"{name}."):
            named = (column if isinstance(column, str) else ", ".join(column)) + problem.field.removeprefix(name)
            return RowError(named, problem.expected, problem.got, words=problem.words)
    return problem


def _format_of(row: Row) -> str:
    format = detect_format(row)
    if format is None:
        raise no_column(row, (*_QUESTIONS, "prompt"), "question", "a question")
    return format


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
