"""`zerosearch view`: turn recorded transcripts into one HTML file that needs no network.

files -> records -> Explorer (records/explorer.py) -> a page with filters, links, and agents side by side
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import tyro

from ..checks import check_whole_number
from ..command_line import read_options
from ..errors import DataError
from ..records.explorer import Explorer, Place, Question, Section, outcome
from ..records.html import load_templates
from ..records.transcripts import noisy_flags, read_transcripts, was_played
from ..types import JsonObject

_SHOWN = ("question", "answers", "noise_level", "turns", "scores", "stop_reason", "extra")
"""Fields of a transcript that the page needs."""
_PLACES = ("transcripts.jsonl", "transcripts/*.jsonl", "evaluation/transcripts/*.jsonl")
"""Where commands write transcripts in their output folder."""
_KNOWN = ("run", "agent", "engine", "index", "hops", "relation")
"""Entries of `extra` that have their own filter, or say nothing to a reader: the hash of an evaluation's run."""


@dataclass(frozen=True)
class ViewConfig:
    """Turn recorded transcripts into one HTML file with filters. The page needs no network.

    The agents of an evaluation are side by side. The documents have the answers marked.
    """

    transcripts: Annotated[Path, tyro.conf.Positional]
    """A JSONL file with transcripts, or the output folder of `zerosearch train`, `quickstart` or `eval`."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("transcripts.html")
    """The HTML file to write."""
    limit: int = 1000
    """Maximum number of transcripts on the page; the last ones of each file are kept, in equal shares."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch view`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code 0.

    Raises:
        ZeroSearchError: the file cannot be read, or contains no transcript.
    """
    config = read_options(ViewConfig, argv, "zerosearch view")
    count, total = write_page(config.transcripts, config.output, limit=config.limit)
    left = "" if count == total else f" (the last ones of {total}, see --limit)"
    print(f"wrote {count} transcripts{left} to {config.output}")
    return 0


def write_page(transcripts: str | Path, output: str | Path, *, limit: int = 1000) -> tuple[int, int]:
    """Write an HTML page with the transcripts of a file.

    Args:
        transcripts: JSONL file written by `TranscriptWriter`, or the output folder of a command that wrote some.
        output: HTML file; missing folders are created.
        limit: maximum number of transcripts on the page; the last ones of each file are kept, in equal shares.

    Returns:
        Number of transcripts on the page, and number of transcripts in the files.

    Raises:
        ConfigError: the limit is below the number of files.
        DataError: a file cannot be read, or there is no transcript.
    """
    files = _files(Path(transcripts))
    check_whole_number("limit", limit, least=len(files))
    records: list[dict[str, Any]] = []
    total = 0
    for file in files:
        last: deque[dict[str, Any]] = deque(maxlen=limit // len(files))
        for record in read_transcripts(file):
            if missing := [name for name in _SHOWN if name not in record]:
                raise DataError(
                    f"{file} is not a file of transcripts: a record lacks {missing[0]!r}. Expected JSONL such as "
                    "transcripts.jsonl, which `TranscriptRecorder` and `--transcripts` write."
                )
            last.append(record)
            total += 1
        records += last
    if not records:
        raise DataError(f"{transcripts} contains no finished transcript.")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render_page(records, title=Path(transcripts).resolve().name, total=total), encoding="utf-8")
    return len(records), total


def _files(path: Path) -> list[Path]:
    """The path itself, or the files of transcripts in a folder that a command wrote."""
    if not path.is_dir():
        return [path]
    files = [file for pattern in _PLACES for file in sorted(path.glob(pattern))]
    if not files:
        raise DataError(f"{path} holds no transcripts; expected one of {', '.join(_PLACES)} in it")
    return files


def render_page(records: Iterable[JsonObject], *, title: str, total: int | None = None) -> str:
    """A page with filters and all transcripts; those of the same question at the same noise are in one row.

    Args:
        records: records from `transcript_record`.
        title: heading of the page.
        total: number of transcripts before the limit was applied; None: the number of `records`.

    Returns:
        A complete HTML document that loads nothing. Its list is shown by the script in it.
    """
    records = list(records)
    facts = _facts(records)
    if total not in (None, len(records)):
        facts[0] = f"the last {len(records)} of {total} transcripts"
    return load_templates().get_template("view.html").render(title=title, facts=facts, section=_section(records))


def _section(records: Sequence[JsonObject]) -> Section:
    """The list of episodes, each with its transcript on the page."""
    explorer = Explorer()
    of_question: dict[str, list[tuple[str, Place, JsonObject]]] = {}
    seen: set[tuple[str, str, Place]] = set()
    for record in records:
        question, place, agent = _question(record), _place(record), str(record["extra"].get("agent", ""))
        number, first = 1, place
        while (question.id, agent, place) in seen:  # several samples of a question in one training step
            number += 1
            place = first._replace(note=f"{first.note} ({number})".strip())
        seen.add((question.id, agent, place))
        scores = record["scores"] or {}
        explorer.add(
            question,
            place,
            agent,
            outcome(
                scores.get("em"),
                scores.get("misled"),
                scores.get("abstained"),
                scores.get("prediction"),
                failed=record["stop_reason"] is not None and not was_played(record),
            ),
            scores.get("prediction"),
            sum(turn["action"] == "search" for turn in record["turns"]),
            sum(any(noisy_flags(turn)) or turn["noisy"] is True for turn in record["turns"]),
        )
        of_question.setdefault(question.id, []).append((agent, place, record))
    return explorer.section({id: explorer.block(rows) for id, rows in of_question.items()})


def _question(record: JsonObject) -> Question:
    question, hops = record["question"], record["extra"].get("hops")
    name = " ".join(filter(None, (question["dataset"], question["id"]))) or question["text"]
    group = f"{hops}-hop" if hops else ""
    return Question(name, question["text"], tuple(record["answers"]), group, question["dataset"] or "")


def _place(record: JsonObject) -> Place:
    extra = record["extra"]
    notes = [
        f"{name} {value}"
        for name, value in extra.items()
        if name not in _KNOWN and isinstance(value, str | int | float)
    ]
    return Place(
        str(extra.get("engine", "")), record.get("noise_kind", "noise"), record["noise_level"], " · ".join(notes)
    )


def _facts(records: Sequence[Mapping[str, Any]]) -> list[str]:
    scored = [record["scores"] for record in records if record["scores"] and record["scores"]["em"] is not None]
    searches = [turn for record in records for turn in record["turns"] if turn["noisy"] is not None]
    facts = [f"{len(records)} transcripts"]
    if scored:
        em, f1, count = (fmean(score[name] for score in scored) for name in ("em", "f1", "searches"))
        facts += [f"EM {em:.3f}", f"F1 {f1:.3f}", f"{count:.2f} searches each"]
    if searches:
        facts.append(f"{fmean(any(noisy_flags(turn)) for turn in searches):.0%} of searches noisy")
    return facts
