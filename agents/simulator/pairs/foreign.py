"""SimulationTuning-style files: pairs of a prompt and a response string, parsed back into training pairs.

Three layouts are supported: `prompt`/`response`, `instruction`/`input`/`output`, and `messages` with roles. The prompt
must state the kind (useful or noisy), the question with its answer, and the query. Fields of the row with these names
take precedence. Missing information is a `RowError`, and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zerosearch_env.datasets.files.columns import first_of
from zerosearch_env.datasets.files.fields import answers, text
from zerosearch_env.datasets.files.packed import unpack
from zerosearch_env.datasets.files.rows import Row, RowError
from zerosearch_env.types import Document

from .pair import Pair

_RESPONSES = ("response", "output", "completion", "chosen")
_PROMPTS = ("prompt", "instruction")

_QUERY = (re.compile(r"^\W*query\s*[:=]\s*(?P<value>.+?)\s*$", re.IGNORECASE | re.MULTILINE),)
_QUESTION = (
    re.compile(
        r"answer(?:ing)?\s+the\s+question\s*:?\s*(?P<question>.+?)\s+whose\s+(?:gold\s+|golden\s+|correct\s+)?"
        r"answers?\s+(?:is|are)\s*:?\s*(?P<answer>.+?)\s*\.?\s*$",
        re.IGNORECASE | re.MULTILINE,
    ),
    re.compile(
        r"^\W*question\s*[:=]\s*(?P<question>.+?)\s*$.*?^\W*(?:gold(?:en)?\s+|ground\s+truth\s+)?answers?\s*[:=]\s*"
        r"(?P<answer>.+?)\s*$",
        re.IGNORECASE | re.MULTILINE | re.DOTALL,
    ),
)
_KIND = (re.compile(r"\b(?P<kind>useful|noisy)\s+(?:\w+\s+)?(?:output|documents?|information)\b", re.IGNORECASE),)
# The first mark inside opens a quotation; if it closed one, the outer marks would belong to two: "Sly" and "Robbie".
_QUOTED = re.compile(r"\"[^\"]*(?:(?<=\s)\".*)?\"|\u201c[^\u201d]*(?:(?<=\s)\u201c.*)?\u201d|'[^']+'")
_HEADER = re.compile(r"(?<!\w)doc(?:ument)?\s*\[?(?P<number>\d{1,3})\]?\s*[:.)]?\s*", re.IGNORECASE)
_TITLE = re.compile(r"\(\s*title\s*:\s*(?P<title>[^()]*)\)\s*:?\s*", re.IGNORECASE)


def looks_foreign(row: Row) -> bool:
    """Whether a row is of one of the three layouts."""
    return "messages" in row or (first_of(row, _PROMPTS) is not None and first_of(row, _RESPONSES) is not None)


def foreign_pair(row: Row, prompt_id: str) -> Pair:
    """The pair in a row of a SimulationTuning-style file. Its split is "train" until `extract` assigns one.

    Args:
        row: a row in one of the three layouts.
        prompt_id: id of the prompt to train the pair with. The wording of the row's prompt is not kept.

    Raises:
        RowError: a part of the pair cannot be found; the message names the field.
    """
    prompt, response, where = _texts(row)
    question, golds = _question(row, prompt, where)
    if row.get("query") is not None:
        query = text(row["query"], "query")
    else:
        query = _last(_QUERY, prompt, where, "a line 'Query: ...'")["value"]
    return Pair(prompt_id, question, golds, _unquoted(query), _noisy(row, prompt, where), _documents(response))


def _unquoted(value: str) -> str:
    """The text without one pair of quotation marks around all of it: they belong to the prompt."""
    quoted = _QUOTED.fullmatch(value.strip())
    return value.strip() if quoted is None else quoted[0][1:-1].strip()


def _texts(row: Row) -> tuple[str, str, str]:
    """Prompt, response, and the name of the prompt's field."""
    if row.get("messages") is not None:
        turns = unpack(row["messages"], "messages")
        if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise RowError("messages", "a list of {role, content}", turns)
        prompts = [turn for turn in turns if turn.get("role") != "assistant"]
        replies = [turn.get("content") for turn in turns if turn.get("role") == "assistant"]
        if not replies:
            raise RowError("messages", "a turn of the assistant", turns)
        prompt = "\n".join(text(turn.get("content"), "messages.content") for turn in prompts)
        return text(prompt, "messages"), text(replies[-1], "messages.content"), "messages"
    field = first_of(row, _PROMPTS)
    answer = first_of(row, _RESPONSES)
    if field is None or answer is None:
        raise RowError("", "prompt/response, instruction/input/output or messages", sorted(map(str, row)))
    prompt = _prompt_text(row[field], field)
    if field == "instruction" and isinstance(row.get("input"), str):
        prompt = f"{prompt}\n{row['input']}"
    return prompt, text(row[answer], answer), field


def _prompt_text(value: Any, field: str) -> str:
    """A prompt given as a string or as chat turns."""
    value = unpack(value, field)
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        return "\n".join(text(turn.get("content"), f"{field}.content") for turn in value)
    return text(value, field)


def _question(row: Row, prompt: str, where: str) -> tuple[str, tuple[str, ...]]:
    gold = first_of(row, ("answers", "answer", "golden_answers"))
    if row.get("question") is not None and gold is not None:
        return text(row["question"], "question"), answers(row[gold], gold)
    task = _last(_QUESTION, prompt, where, "the question and its answer ('... the question: X whose answer is Y')")
    return text(_unquoted(task["question"]), where), answers(_unquoted(task["answer"]), where)


def _noisy(row: Row, prompt: str, where: str) -> bool:
    if isinstance(row.get("noisy"), bool):
        return bool(row["noisy"])
    kind = _last(_KIND, prompt, where, "the kind: 'useful documents' or 'noisy documents'")["kind"]
    return str(kind).lower() == "noisy"


def _last(patterns: Sequence[re.Pattern[str]], prompt: str, where: str, expected: str) -> re.Match[str]:
    """The last match of the first pattern that matches: worked examples may come before the task."""
    for pattern in patterns:
        if matches := list(pattern.finditer(prompt)):
            return matches[-1]
    raise RowError(where, expected, prompt[-200:])


def _documents(response: str) -> tuple[Document, ...]:
    """The documents in `Doc 1: ... Doc 2: ...`; only a header with the next number starts a new document."""
    starts: list[re.Match[str]] = []
    for header in _HEADER.finditer(response):
        if int(header["number"]) == len(starts) + 1:
            starts.append(header)
    documents = []
    for position, header in enumerate(starts):
        end = starts[position + 1].start() if position + 1 < len(starts) else len(response)
        body = " ".join(response[header.end() : end].split())
        title = _TITLE.match(body)
        documents.append(
            Document(title["title"].strip(), body[title.end() :]) if title is not None else Document("", body)
        )
    if not documents or not all(document.text for document in documents):
        raise RowError("response", "documents as 'Doc 1: ... Doc 2: ...', none of them empty", response)
    return tuple(documents)
