"""A training pair of a simulation LLM: the parts of a prompt, and the documents that answer it.

A line of an extract file is

    {prompt_id, question, answers, query, noisy, documents [{title, text}], split}

The prompt itself is not stored. It is built from the pair in the style named by `prompt_id`, with the same cleaning
that the engine applies to a search, so that training and serving always use the same prompt.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zerosearch_env.datasets.files.columns import required
from zerosearch_env.datasets.files.fields import answers, text
from zerosearch_env.datasets.files.find import find_files
from zerosearch_env.datasets.files.rows import OnBadRow, Row, RowError, RowReader, read_files
from zerosearch_env.engines.simulated.prompts import STYLES, style_name
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of
from zerosearch_env.types import Document, SearchRequest, full_text

from .records import document_records, read_documents

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The parts of a prompt, and the documents that the model should answer with."""

    prompt_id: str
    """Name and version of the prompt; one of `STYLES`."""
    question: str
    answers: tuple[str, ...]
    query: str
    noisy: bool
    documents: tuple[Document, ...]
    split: Split = "train"


def prompt_text(pair: Pair) -> str:
    """The prompt of a pair, exactly as the simulated engine sends it for such a search."""
    request = SearchRequest(pair.query, pair.question, pair.answers, pair.noisy, len(pair.documents), seed=0)
    return prompt_of(request, pair.noisy, SimulationOptions(prompt=style_name(pair.prompt_id)))


def target_text(documents: Iterable[Document]) -> str:
    """The completion to train on: one document per line, as the prompt asks for."""
    lines = []
    for number, document in enumerate(documents, 1):
        title, body = one_line(document.title), one_line(document.text)
        lines.append(f"Doc {number}: (Title: {title}) {body}" if title else f"Doc {number}: {body}")
    return "\n".join(lines)


def one_line(text: str) -> str:
    """The text on one line, without control characters, which could split a document."""
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def pair_key(pair: Pair, *, label: bool = True) -> tuple[object, ...]:
    """Key under which two pairs count as equal: query, documents and label, ignoring case and white space."""
    documents = tuple(_folded(full_text(document)) for document in pair.documents)
    return (_folded(pair.query), documents, pair.noisy) if label else (_folded(pair.query), documents)


def question_key(question: str) -> str:
    """Key under which two questions count as equal: letters and digits, ignoring case."""
    return re.sub(r"\W+", " ", question.casefold()).strip()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def as_record(pair: Pair) -> dict[str, Any]:
    """The pair as JSON values."""
    return asdict(pair) | {"documents": document_records(pair.documents)}


def read_pair(row: Row) -> Pair:
    """The pair in a row.

    Raises:
        RowError: a field is missing or invalid.
    """
    known = sorted(style.id for style in STYLES.values())
    choices = {"noisy": (True, False), "split": ("train", "test"), "prompt_id": known}
    for name, valid in choices.items():
        if required(row, name) not in valid:
            raise RowError(name, f"one of {', '.join(map(str, valid))}", row[name])
    return Pair(
        str(row["prompt_id"]),
        text(required(row, "question"), "question"),
        answers(required(row, "answers"), "answers"),
        text(required(row, "query"), "query"),
        bool(row["noisy"]),
        read_documents(required(row, "documents"), "documents"),
        row["split"],
    )


def read_pairs(path: Path, *, split: str | None = None, on_bad_row: OnBadRow = "raise") -> list[Pair]:
    """The pairs of an extract file.

    Args:
        path: the file, or a folder with its shards.
        split: return only this part; None returns both.
        on_bad_row: `"raise"`, or `"skip"`.

    Raises:
        DataError: a row is bad, or there is no pair.
    """
    rows = read_files(find_files(path.expanduser(), "train"))
    pairs = RowReader(on_bad_row).read(rows, lambda row: read_pair(row.content), where=path, what="pairs")
    return [pair for pair in pairs if split is None or pair.split == split]
