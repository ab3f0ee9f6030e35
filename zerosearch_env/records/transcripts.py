"""Transcripts: one JSON record per episode, appended to a JSONL file; incomplete lines are skipped when reading.

A record (`schema_version` 1) has the fields

    schema_version, protocol, question {id, text, dataset, split, supporting}, answers, noise_level, noise_kind, seed,
    prompt,
    turns [{turn, action, action_text, query, documents [{title, text, source, score}], noisy, answer_in_documents,
            observation, searches [{query, noisy, kind, documents (their number), message, wrong_answers}],
            messages [{role, content}]}],
    stop_reason, error,
    scores {prediction, em, f1, subem, em_unicode, f1_unicode, reward, misled, abstained, hallucinated, searches,
            counterfactual, additional scores},
    tokens {read, written}, extra

`supporting` has the titles of the paragraphs that are needed to answer; it is only there if the dataset names them.
`noisy` is a bool, a list with one bool per document, or null if the turn was not a search. `documents` has those of all
searches of the turn, in the order of `searches`. `messages` is the observation as chat messages, in protocols with
tools. `kind` is the kind of noise, null if the search was not noisy; `noise_kind` is the kind or mixture of the whole
episode. `message` (of a failed tool) and `wrong_answers` are only there if there are any. `stop_reason` and `scores`
are null until the episode ends; an additional score is null if it has no value, and every figure is null if the
question has no gold answers. `tokens` is only there if the agent's player counts them. `extra` holds values added by
the writer (training step, name of the agent, ...).

Records of earlier versions lack `searches`, `messages`, everything about kinds of noise, and the scores `misled`,
`abstained`, `hallucinated` and `counterfactual`.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import DataError
from ..game.episode import Episode
from ..types import Document, Json, JsonObject, StopReason, Turn

SCHEMA_VERSION = 1
_FIGURES = ("em", "f1", "subem", "em_unicode", "f1_unicode", "reward", "misled", "abstained", "hallucinated")
_log = logging.getLogger(__name__)


def transcript_record(episode: Episode, **extra: Json) -> dict[str, Json]:
    """The record of an episode, finished or not.

    Args:
        episode: the episode.
        **extra: JSON values to store under `extra`.

    Returns:
        The record described in the module docstring. It can be written as JSON and does not change when the episode
        continues.
    """
    question = episode.question
    last = episode.turns[-1].step if episode.turns else None
    scores = last.scores if last is not None else None
    return {
        "schema_version": SCHEMA_VERSION,
        "protocol": episode.rules.protocol.name,
        "question": {
            "id": question.id,
            "text": question.text,
            "dataset": question.dataset,
            "split": question.split,
            **({"supporting": list(question.supporting)} if question.supporting else {}),
        },
        "answers": list(question.answers),
        "noise_level": float(episode.noise_level),
        "noise_kind": str(episode.noise_kinds),
        "seed": int(episode.seed),
        "prompt": episode.prompt,
        "turns": [_turn_record(turn) for turn in episode.turns],
        "stop_reason": None if episode.stop_reason is None else str(episode.stop_reason),
        "error": None if last is None else last.error,
        "scores": None
        if scores is None
        else {
            "prediction": scores.prediction,
            **{name: _figure(getattr(scores, name)) for name in _FIGURES},
            "searches": int(scores.searches),
            "counterfactual": scores.counterfactual,
            **{name: None if value is None else float(value) for name, value in scores.extra},
        },
        **({} if episode.tokens is None else {"tokens": dict(zip(("read", "written"), episode.tokens, strict=True))}),
        "extra": extra,
    }


def _figure(value: float) -> float | None:
    """A score, or None (NaN cannot be written as JSON) if the question has no gold answers."""
    return None if math.isnan(value) else float(value)


def _turn_record(turn: Turn) -> dict[str, Any]:
    step = turn.step
    return {
        "turn": step.turn,
        "action": step.action,
        "action_text": turn.action_text,
        "query": step.query,
        "documents": [_document_record(document) for document in step.documents],
        "noisy": list(step.noisy) if isinstance(step.noisy, tuple) else step.noisy,
        "answer_in_documents": step.answer_in_documents,
        "observation": step.observation,
        "searches": [
            {
                "query": query,
                "noisy": list(noisy) if isinstance(noisy, tuple) else noisy,
                "kind": kind,
                "documents": len(result.documents),
                **({} if result.message is None else {"message": result.message}),
                **({"wrong_answers": list(result.wrong_answers)} if result.wrong_answers else {}),
            }
            for query, noisy, kind, result in zip(
                step.queries, step.noise_flags, step.noise_kinds, step.results, strict=True
            )
        ],
        "messages": [{"role": role, "content": content} for role, content in step.messages],
    }


def _document_record(document: Document) -> dict[str, Any]:
    score = document.score
    return {
        "title": document.title,
        "text": document.text,
        "source": document.source,
        "score": None if score is None else float(score),
    }


def was_played(record: JsonObject) -> bool:
    """Whether a recorded episode is over, and neither the engine nor the agent failed in it."""
    reason = record["stop_reason"]
    return reason is not None and not StopReason(reason).failed


def noisy_flags(turn: JsonObject) -> list[bool]:
    """One flag per document of a recorded turn; empty if the turn has no documents."""
    parts = turn.get("searches") or [{"noisy": turn["noisy"], "documents": len(turn["documents"])}]
    flags: list[bool] = []
    for part in parts:
        noisy, count = part["noisy"], part["documents"]
        flags += [*noisy, *[False] * count][:count] if isinstance(noisy, list) else [bool(noisy)] * count
    return flags


def search_groups(turn: JsonObject) -> list[dict[str, Json]]:
    """The searches of a recorded turn, each as `{query, documents, noisy, message}` with one flag per document."""
    flags = noisy_flags(turn)
    parts = turn.get("searches") or [{"query": turn["query"], "documents": len(turn["documents"])}]
    groups: list[dict[str, Json]] = []
    start = 0
    for part in parts:
        end = start + part["documents"]
        groups.append(
            {
                "query": part["query"] or "",
                "documents": turn["documents"][start:end],
                "noisy": flags[start:end],
                "message": part.get("message"),
            }
        )
        start = end
    return groups


def encode_line(record: JsonObject) -> bytes:
    """A record as one line of JSON. Non-ASCII text is written as it is, unless the record has lone surrogates."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"


class TranscriptWriter:
    """Append records to a JSONL file, one whole line per `write` call.

    Several writers, also in several processes, may append to one file; their lines do not mix. If a killed process left
    an unfinished last line, the writer starts a new line first, and `read_transcripts` skips the unfinished one.

    Args:
        path: the file; missing folders are created when the first record is written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "transcripts.jsonl"
        >>> with TranscriptWriter(path) as writer:
        ...     writer.write({"schema_version": 1, "answers": ["Paris"]})
        >>> [record["answers"] for record in read_transcripts(path)]
        [['Paris']]
    """

    def __init__(self, path: str | Path) -> None:
        self._file: int | None = None
        self.path = Path(path)

    def write(self, record: JsonObject) -> None:
        """Append one record.

        Args:
            record: a record from `transcript_record`.

        Raises:
            OSError: the file cannot be written, or the disk is full.
        """
        line = encode_line(record)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            if _has_open_line(self._file):
                line = b"\n" + line
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written to {self.path}: is the disk full?")

    def close(self) -> None:
        """Close the file. Further calls do nothing; writing opens the file again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle only the path; the copy opens the file itself."""
        return {"path": self.path, "_file": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> TranscriptWriter:
        """A writer to the same path with its own file handle."""
        return TranscriptWriter(self.path)

    def __del__(self) -> None:
        self.close()


def _has_open_line(file: int) -> bool:
    size = os.lseek(file, 0, os.SEEK_END)
    if size == 0:
        return False
    os.lseek(file, -1, os.SEEK_END)
    return os.read(file, 1) != b"\n"


_LINE_START = b'{"schema_version"'


def read_transcripts(path: str | Path) -> Iterator[dict[str, Json]]:
    """Read the records of a JSONL file one by one.

    Unfinished lines, left by a killed process, are skipped. So are damaged lines, with a warning at the end.

    Args:
        path: a file written by `TranscriptWriter`.

    Yields:
        The records.

    Raises:
        DataError: the file is missing or holds other lines only, or the schema of a line is newer than this version
            supports.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as cause:
        raise DataError(f"cannot read transcripts from {path}: {cause.strerror or cause}.") from cause
    records, problems = 0, []
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as cause:
                if not line.endswith(b"\n") or line.startswith(_LINE_START) or _LINE_START.startswith(line.strip()):
                    continue  # unfinished: its writer was killed
                problems.append(f"line {number}: not JSON ({cause}); expected one transcript per line")
                continue
            version = record.get("schema_version") if isinstance(record, dict) else None
            if not isinstance(version, int):
                problems.append(f"line {number}: not a transcript, 'schema_version' is missing")
                continue
            if version > SCHEMA_VERSION:
                raise DataError(
                    f"{path}, line {number}: schema version {version} is newer than the {SCHEMA_VERSION} this version "
                    "reads. Upgrade with: pip install -U zerosearch-env"
                )
            records += 1
            yield record
    if problems and not records:
        raise DataError(f"{path} is not a file of transcripts: {problems[0]}.")
    if problems:
        lines = "1 damaged line is" if len(problems) == 1 else f"{len(problems)} damaged lines are"
        _log.warning("%s: %s left out, the first is %s", path, lines, problems[0])
