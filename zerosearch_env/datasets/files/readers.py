"""One reader function per format: it converts a row to a `Question`. The format is detected from the fields of a row.

| format | used by | detected by |
|---|---|---|
| `search-r1` | Search-R1, ZeroSearch; rows of SkyRL and verl too | `reward_model`, `reward_spec` or `data_source` |
| `flashrag` | FlashRAG | `golden_answers` |
| `hotpotqa` | HotpotQA, with paragraphs | `context` and `supporting_facts` |
| `2wikimultihopqa` | 2WikiMultihopQA, with paragraphs | the fields of `hotpotqa`, and `evidences` |
| `musique` | MuSiQue, with paragraphs | `paragraphs` |
| `plain` | anything with a question and its answers | `question` and `answers`, `answer` or `golden_answers` |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import DataError, sentence
from ...types import Paragraph, Question
from .fields import answers, first_of, flagged_paragraphs, plain, supporting_titles, text, titled_sentences, unpacked
from .rows import Row, RowError

Reader = Callable[[Row], Question]

_IDS = ("id", "_id", "question_id", "idx", "qid")
_QUESTIONS = ("question", "problem", "query")
_ANSWERS = ("answers", "answer", "golden_answers", "gold_answers", "target")
_ALIASES = ("answer_aliases", "aliases")


def detect_format(row: Row) -> str | None:
    """The name of the format of a row, or None if it is unknown."""
    if isinstance(plain(row.get("paragraphs")), list):
        return "musique"
    if row.get("context") is not None and row.get("supporting_facts") is not None:
        return "2wikimultihopqa" if row.get("evidences") is not None else "hotpotqa"
    if first_of(row, ("reward_model", "reward_spec", "data_source")):
        return "search-r1"
    if first_of(row, _QUESTIONS) and row.get("golden_answers") is not None:
        return "flashrag"
    if any(name in row for name in _QUESTIONS):
        return "plain"
    return None


def _build(
    row: Row,
    golds: tuple[str, ...],
    *,
    question: str | None = None,
    paragraphs: tuple[Paragraph, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    dataset: str = "",
    split: str = "",
    name: str | None = None,
) -> Question:
    """A question with the fields shared by all formats. The caller fills in an empty id, dataset or split."""
    if question is None:
        field = first_of(row, _QUESTIONS) or "question"
        question = text(row.get(field), field)
    key = first_of(row, _IDS)
    name = name or ("" if key is None else str(plain(row[key])).strip())
    return Question(name, question, golds, dataset, split, paragraphs, metadata or None)


def _golds(row: Row) -> tuple[str, ...]:
    field = first_of(row, _ANSWERS) or "answers"
    golds = answers(row.get(field), field)
    more = first_of(row, _ALIASES)
    if more is None or plain(row[more]) in ([], ""):
        return golds
    return tuple(dict.fromkeys((*golds, *answers(row[more], more))))


def read_plain(row: Row) -> Question:
    """A question and its answers; every other field becomes metadata."""
    used = {first_of(row, names) for names in (_IDS, _QUESTIONS, _ANSWERS, _ALIASES)}
    return _build(row, _golds(row), metadata={key: plain(value) for key, value in row.items() if key not in used})


def read_flashrag(row: Row) -> Question:
    """`id`, `question`, `golden_answers`, and optionally `metadata`."""
    metadata = plain(row.get("metadata"))
    golds = answers(row.get("golden_answers"), "golden_answers")
    return _build(row, golds, metadata=metadata if isinstance(metadata, dict) else None)


def read_search_r1(row: Row) -> Question:
    """`question` or the end of `prompt`; `golden_answers` or `reward_model.ground_truth`; other fields are optional."""
    reward_field = first_of(row, ("reward_model", "reward_spec"))
    reward = unpacked(row[reward_field], reward_field) if reward_field else {}
    if row.get("golden_answers") is not None and plain(row["golden_answers"]) != []:
        golds = answers(row["golden_answers"], "golden_answers")
    else:
        truth = reward.get("ground_truth") if isinstance(reward, Mapping) else None
        golds = answers(truth, f"{reward_field or 'reward_model'}.ground_truth")
    extra = plain(row.get("extra_info"))
    extra = extra if isinstance(extra, dict) else {}
    source = str(row.get("data_source") or "")
    index = extra.get("index")
    name = f"{source or 'row'}-{index}" if first_of(row, _IDS) is None and index is not None else None
    metadata = plain(row.get("metadata"))
    return _build(
        row,
        golds,
        question=None if first_of(row, _QUESTIONS) else _prompted_question(row.get("prompt")),
        dataset=source,
        split=str(extra.get("split") or ""),
        name=name,
        metadata={key: value for key, value in metadata.items() if value is not None}
        if isinstance(metadata, dict)
        else None,
    )


def _prompted_question(prompt: Any) -> str:
    """The question at the end of a prompt: the text after the last "Question:" in the last user turn."""
    turns = plain(prompt)
    if isinstance(turns, str):
        content: Any = turns
    elif isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
        content = next((turn.get("content") for turn in reversed(turns) if turn.get("role") == "user"), None)
    else:
        raise RowError("question", "a string, or a `prompt` that ends with the question", prompt)
    return text(re.split(r"(?i)\bquestion:", text(content, "prompt"))[-1], "prompt")


def read_hotpotqa(row: Row) -> Question:
    """`question`, `answer`, `context` and `supporting_facts` (lists of pairs, or dicts of lists)."""
    names = supporting_titles(row.get("supporting_facts"), "supporting_facts")
    paragraphs = tuple(
        Paragraph(title, body, title in names) for title, body in titled_sentences(row.get("context"), "context")
    )
    metadata = {key: plain(row[key]) for key in ("type", "level", "evidences") if row.get(key) is not None}
    return _build(row, _golds(row), paragraphs=paragraphs, metadata=metadata)


def read_musique(row: Row) -> Question:
    """`question`, `answer`, `answer_aliases` and `paragraphs`; rows marked as not answerable are bad rows."""
    if plain(row.get("answerable")) is False:
        raise RowError("answerable", "a question that its paragraphs answer", False)
    steps = plain(row.get("question_decomposition"))
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


def read_questions(
    rows: Iterable[tuple[int, Row | RowError]],
    *,
    where: str,
    name: str,
    split: str,
    format: str | None,
    skip_bad_rows: bool,
    limit: int | None,
) -> tuple[list[Question], int, str]:
    """Read rows until `limit` questions are found.

    Args:
        rows: rows with their numbers.
        where: the file or the hub name, for error messages.
        name: name of the dataset; also the prefix of ids created for rows without an id.
        split: the split of rows that do not name one.
        format: one of `FORMATS`; None: detected from the first row with a known format.
        skip_bad_rows: count bad rows instead of raising an error.
        limit: maximum number of questions to read; None: all.

    Returns:
        The questions, the number of skipped rows, and the name of the format.

    Raises:
        DataError: a row is bad, the format is unknown, or there are no questions. The message names the file, the row
            and the field.
    """
    questions: list[Question] = []
    seen: dict[tuple[str, str], int] = {}
    skipped, first_problem = 0, ""
    for number, content in rows:
        try:
            if isinstance(content, RowError):
                raise content
            format = format or _format_of(content)
            question = FORMATS[format](content)
            question = replace(
                question,
                id=question.id or f"{name}-{number}",
                dataset=question.dataset or name,
                split=question.split or split,
            )
            earlier = seen.setdefault((question.dataset, question.id), number)
            if earlier != number:
                raise RowError("id", f"a unique id (row {earlier} has the same)", question.id)
        except RowError as problem:
            message = f"{where}, row {number}: {problem}"
            if not skip_bad_rows:
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
    return _with_distinct_ids(questions), skipped, format or ""


def _format_of(row: Row) -> str:
    format = detect_format(row)
    if format is None:
        raise RowError("", f"the fields of a known format ({', '.join(FORMATS)})", sorted(map(str, row)))
    return format


def _with_distinct_ids(questions: list[Question]) -> list[Question]:
    """Prefix every id with its dataset's name, but only if ids repeat, as in files merged from several datasets."""
    if len({question.id for question in questions}) == len(questions):
        return questions
    return [replace(question, id=f"{question.dataset}/{question.id}") for question in questions]
