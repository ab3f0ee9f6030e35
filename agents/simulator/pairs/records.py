"""The record passed from `collect` to `label` to `extract`: a trajectory with its searches; and readers for it.

A line is

    {schema_version, id, agent, question, answers, prediction, em,
     searches [{query, documents [{title, text}], noisy, label}]}

`noisy` is the noise that the environment drew for the search (null if none was drawn). `label` is "useful" or "noisy"
after `label` has run. Three kinds of files can be read: this one, the released trajectories, in which documents are
plain strings, and the transcripts recorded by environments, training and evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from zerosearch_env.datasets.files.columns import no_column, required
from zerosearch_env.datasets.files.fields import answers, text
from zerosearch_env.datasets.files.packed import plain, unpack
from zerosearch_env.datasets.files.rows import NumberedRow, Row, RowError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.game.episode import Episode
from zerosearch_env.types import Document, full_text

Label = Literal["useful", "noisy"]
LABELS: tuple[Label, ...] = ("useful", "noisy")


@dataclass(frozen=True, slots=True)
class Search:
    """A query and what a search engine returned for it."""

    query: str
    documents: tuple[Document, ...]
    noisy: bool | None = None
    """Whether the search was drawn noisy; None if no noise was drawn."""
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode from a question to its answer, with all its searches."""

    id: str
    question: str
    answers: tuple[str, ...]
    prediction: str | None
    em: bool | None
    """Whether the final answer is right; None if the episode did not end."""
    searches: tuple[Search, ...]
    agent: str = ""


def from_episode(episode: Episode, *, id: str, agent: str) -> Trajectory:
    """The trajectory of a finished episode."""
    scores = episode.turns[-1].step.scores if episode.turns else None
    searches = []
    for turn in episode.turns:
        step = turn.step
        if step.query is not None and step.documents:
            noisy = any(step.noisy) if isinstance(step.noisy, tuple) else step.noisy
            searches.append(Search(step.query, tuple(Document(d.title, d.text) for d in step.documents), noisy))
    return Trajectory(
        id,
        episode.question.text,
        episode.question.answers,
        None if scores is None else scores.prediction,
        None if scores is None else bool(scores.em),
        tuple(searches),
        agent,
    )


def as_record(trajectory: Trajectory) -> dict[str, Any]:
    """The trajectory as JSON values, without the schema version."""
    searches = [asdict(search) | {"documents": document_records(search.documents)} for search in trajectory.searches]
    return asdict(trajectory) | {"searches": searches}


def holds_answer(documents: Sequence[Document], answers: Sequence[str]) -> bool:
    """Whether a document contains one of the answers."""
    return any(contains_answer(full_text(document), answers) for document in documents)


def document_records(documents: Sequence[Document]) -> list[dict[str, str]]:
    """Title and text of each document as JSON values."""
    return [{"title": document.title, "text": document.text} for document in documents]


class TrajectoryReader:
    """Converts rows of any of the three kinds to trajectories; a repeated id gets the row number appended."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, numbered: NumberedRow) -> Trajectory:
        """The trajectory in a row.

        Raises:
            RowError: a field is invalid; the message names it.
        """
        row = numbered.content
        if "searches" in row:
            trajectory = _read_trajectory(row, numbered.number)
        elif "turns" in row:
            trajectory = _read_transcript(row, numbered.number)
        else:
            raise no_column(row, ["searches", "turns"], "searches", "a trajectory or a transcript", mappable=False)
        if trajectory.id in self._seen:
            trajectory = replace(trajectory, id=f"{trajectory.id}@{numbered.number}")
        self._seen.add(trajectory.id)
        return trajectory


def _read_trajectory(row: Row, number: int) -> Trajectory:
    searches = []
    for k, entry in enumerate(_list(row["searches"], "searches")):
        where = f"searches[{k}]"
        if not isinstance(entry, Mapping):
            raise RowError(where, "an object with 'query' and 'documents'", entry)
        searches.append(
            Search(
                text(required(entry, "query", f"{where}.query"), f"{where}.query"),
                read_documents(required(entry, "documents", f"{where}.documents"), f"{where}.documents"),
                _flag(entry.get("noisy"), f"{where}.noisy"),
                _label(entry.get("label"), f"{where}.label"),
            )
        )
    return Trajectory(
        str(row.get("id") if row.get("id") is not None else f"row-{number}"),
        text(required(row, "question"), "question"),
        answers(required(row, "answers"), "answers"),
        _prediction(row.get("prediction")),
        _flag(row.get("em"), "em"),
        tuple(searches),
        str(row.get("agent") or ""),
    )


def _read_transcript(row: Row, number: int) -> Trajectory:
    question = unpack(required(row, "question"), "question")
    if not isinstance(question, Mapping):
        raise RowError("question", "an object with 'id' and 'text'", question)
    scores = unpack(row.get("scores"), "scores") if row.get("error") is None else None
    if scores is not None and not isinstance(scores, Mapping):
        raise RowError("scores", "an object or null", scores)
    searches = []
    for k, turn in enumerate(_list(row["turns"], "turns")):
        where = f"turns[{k}]"
        if not isinstance(turn, Mapping):
            raise RowError(where, "an object", turn)
        if turn.get("action") != "search" or not turn.get("documents"):
            continue
        noisy = plain(turn.get("noisy"))
        searches.append(
            Search(
                text(turn.get("query"), f"{where}.query"),
                read_documents(turn.get("documents"), f"{where}.documents"),
                any(noisy) if isinstance(noisy, list) else _flag(noisy, f"{where}.noisy"),
            )
        )
    extra = unpack(row.get("extra"), "extra")
    return Trajectory(
        str(question.get("id") or f"row-{number}"),
        text(required(question, "text", "question.text"), "question.text"),
        answers(required(row, "answers"), "answers"),
        None if scores is None else _prediction(scores.get("prediction"), "scores.prediction"),
        None if scores is None else _flag(scores.get("em"), "scores.em"),
        tuple(searches),
        str(extra.get("agent") or "") if isinstance(extra, Mapping) else "",
    )


def read_documents(value: Any, field: str) -> tuple[Document, ...]:
    """Parse documents given as strings, or as objects with `text` (or `contents`) and optionally `title`.

    Raises:
        RowError: there are no documents, or one has no text.
    """
    documents = []
    for k, entry in enumerate(_list(value, field)):
        where = f"{field}[{k}]"
        if isinstance(entry, Mapping):
            body = entry.get("text") if entry.get("text") is not None else entry.get("contents")
            title = entry.get("title")
            if title is not None and not isinstance(title, str):
                raise RowError(f"{where}.title", "a string", title)
            documents.append(Document((title or "").strip(), text(body, f"{where}.text")))
        else:
            documents.append(Document("", text(entry, where)))
    if not documents:
        raise RowError(field, "at least one document", value)
    return tuple(documents)


def _list(value: Any, field: str) -> list[Any]:
    value = unpack(value, field)
    if not isinstance(value, list):
        raise RowError(field, "a list", value)
    return value


def _flag(value: Any, field: str) -> bool | None:
    """A boolean or None; EM may also be written as 0.0 or 1.0."""
    value = plain(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise RowError(field, "true, false or null", value)


def _prediction(value: Any, field: str = "prediction") -> str | None:
    if value is not None and not isinstance(value, str):
        raise RowError(field, "a string or null", value)
    return value


def _label(value: Any, field: str) -> Label | None:
    if value is None or value in LABELS:
        return cast("Label | None", value)
    raise RowError(field, f"one of {', '.join(LABELS)}, or null", value)
