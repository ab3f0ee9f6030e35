"""The report's list of episodes, with the transcripts of all agents side by side (zerosearch_env/records/explorer.py).

    Joined -> cells -> Explorer        every episode, from results.json
    transcripts/*.jsonl -> _Stored     where each transcript is, without parsing it
    choose -> blocks                   transcripts on the page: whole questions, as far as the limits allow
                                       the others: one JavaScript file per question, loaded when its row is opened

The stored lines are read question by question, so memory grows with the number of episodes and not with their length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerosearch_env.errors import DataError
from zerosearch_env.records.explorer import Explorer, Place, Question, Section, file_text, outcome
from zerosearch_env.records.offsets import read_line, scan

from ..evaluation.episodes import EpisodeResult
from ..evaluation.join import Joined
from ..evaluation.results import Cell, CellKey, Evaluation

TRANSCRIPTS = 200
"""Transcripts of an agent on the page, by default."""
_LARGEST_BLOCKS = 16_000_000
"""Characters of the transcripts on the page, whatever their number."""

_Records = list[tuple[str, Place, dict[str, Any]]]
"""Agent, place and transcript record of each stored episode of a question."""


def outcome_of(result: EpisodeResult) -> str:
    """What an episode came to, one of `explorer.OUTCOMES`. One that is wrong in earlier results is never misled."""
    return outcome(result.em, result.misled, result.abstained, result.prediction, failed=result.failed)


def episode_section(joined: Joined, page: Path | None = None, *, transcripts: int = TRANSCRIPTS) -> Section:
    """The list of all episodes of an evaluation.

    Args:
        joined: the evaluation, and the folders with its transcripts; without folders the list has no transcripts.
        page: the HTML file that the list is for. Transcripts that it has no room for are written into a folder next to
            it. None writes none, and leaves them out.
        transcripts: number of transcripts of each agent on the page. At most 16 MB of them are.

    Raises:
        DataError: a file of transcripts has changed while it was read, or a line of it is not a transcript.
    """
    explorer, stored = _collect(joined)
    folder = None if page is None else page.with_name(f"{page.stem}_files")
    if folder is not None:
        _empty(folder)
    numbers, version = {name: number for number, name in enumerate(explorer.questions)}, explorer.version
    blocks: dict[str, str] = {}
    files: dict[str, str] = {}
    left, size = transcripts, 0
    for question in _alternating(explorer):
        records = stored.read(question)
        _describe(explorer.questions[question], records)
        chosen, others = _split(records, left)
        block = explorer.block(chosen) if chosen else ""
        if size + len(block) > _LARGEST_BLOCKS:
            left, chosen, others = 0, [], records
        if chosen:
            blocks[question] = block
            size += len(block)
            left -= len({place for _, place, _ in chosen})
        if others and folder is not None:
            path = folder / f"{numbers[question]:05}.js"
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(file_text(numbers[question], explorer.block(others), version), encoding="utf-8")
            files[question] = f"{folder.name}/{path.name}"
    return explorer.section(blocks, files)


def _collect(joined: Joined) -> tuple[Explorer, _Stored]:
    """All episodes, and where their transcripts are."""
    explorer, stored = Explorer(), _Stored()
    ids = _question_ids(joined.evaluation)
    for cell in _distinct(joined.evaluation.cells):
        lines = stored.of_cell(joined, cell)
        for result in cell.episodes:
            place = _place(cell.key, result)
            question = Question(ids[result.index], group=result.group, data_source=result.data_source)
            said = (outcome_of(result), result.prediction, result.searches, result.noisy)
            explorer.add(question, place, cell.agent, *said)
            if (line := lines.get(result.key)) is not None:
                stored.add(question.id, cell.agent, place, line)
    return explorer, stored


def _distinct(cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells without those of level 0 that repeat another one for a further kind of noise."""
    seen: set[CellKey] = set()
    for cell in cells:
        if cell.key.played not in seen:
            seen.add(cell.key.played)
            yield cell


def _place(key: CellKey, result: EpisodeResult) -> Place:
    note = f"sample {result.sample + 1}" if result.sample else ""
    return Place(key.engine, key.played.noise_kind, key.noise_level, note)


def _question_ids(evaluation: Evaluation) -> dict[int, str]:
    """A name for each question, by its index: its id, with the index where several have the same id, or none."""
    named = {result.index: result.question_id for cell in evaluation.cells for result in cell.episodes}
    first = {name: index for index, name in reversed(named.items())}
    return {i: name if name and first[name] == i else f"{name} #{i}".strip() for i, name in named.items()}


def _alternating(explorer: Explorer) -> list[str]:
    """The questions in their order, one of each group in turn."""
    groups: dict[str, list[str]] = {}
    for question in explorer.questions.values():
        groups.setdefault(question.group, []).append(question.id)
    turns = itertools.zip_longest(*groups.values())
    return [name for turn in turns for name in turn if name is not None]


def _describe(question: Question, records: _Records) -> None:
    """Give a question the text and the answers that its first transcript has."""
    if records:
        record = records[0][2]
        question.text, question.answers = record["question"]["text"], tuple(record["answers"])


def _split(records: _Records, most: int) -> tuple[_Records, _Records]:
    """The records of the first `most` places, and the others."""
    places = list(dict.fromkeys(place for _, place, _ in records))
    chosen = set(places[:most])
    parts: tuple[_Records, _Records] = ([], [])
    for entry in records:
        parts[entry[1] not in chosen].append(entry)
    return parts


def _empty(folder: Path) -> None:
    """Remove the files of an earlier page, and the folder if nothing else is in it.

    What somebody else has put there may be a link: nothing is ever written through one.
    """
    if folder.is_symlink():
        folder.unlink()
    if folder.is_dir():
        for path in folder.glob("[0-9][0-9][0-9][0-9][0-9]*.js"):
            path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


@dataclass
class _Stored:
    """Where the transcripts are: offsets into the files, found by a scan of each."""

    _lines: dict[str, list[tuple[str, Place, Path, int, int]]] = field(default_factory=dict)
    """Question -> agent, place, file, offset and length of each of its transcripts."""
    _scanned: dict[tuple[Path, CellKey], dict[tuple[int, int], tuple[Path, int, int]]] = field(default_factory=dict)

    def of_cell(self, joined: Joined, cell: Cell) -> dict[tuple[int, int], tuple[Path, int, int]]:
        """File, offset and length of each stored episode of a cell, by `EpisodeResult.key`; the last line counts."""
        place = joined.stored(cell.key)
        if place is None:
            return {}
        path, key = place
        if not path.exists():
            stored = (joined.stored(twin.key) for twin in joined.evaluation.twins(cell.key))
            path, key = next((at for at in stored if at and at[0].exists()), place)
        if not path.exists():
            return {}
        if (path, key) not in self._scanned:
            self._scanned = {(path, key): {}}  # one at a time: the cells that share a file follow each other
            found = self._scanned[path, key]
            for line in scan(path):
                if CellKey(line.agent, line.engine, line.noise_level, line.noise_kind).played == key.played:
                    found[line.index, line.sample] = (path, line.offset, line.length)
        return self._scanned[path, key]

    def add(self, question: str, agent: str, place: Place, line: tuple[Path, int, int]) -> None:
        self._lines.setdefault(question, []).append((agent, place, *line))

    def read(self, question: str) -> _Records:
        """The transcripts of a question, in the order of the cells."""
        records: _Records = []
        for path, lines in itertools.groupby(self._lines.pop(question, ()), lambda line: line[2]):
            with path.open("rb") as file:
                for agent, place, _, offset, length in lines:
                    record = read_line(file, offset, length)
                    if missing := {"question", "answers", "turns", "scores", "prompt", "protocol"} - record.keys():
                        raise DataError(f"{path}: the transcript at byte {offset} lacks {sorted(missing)[0]!r}")
                    records.append((agent, place, record))
        return records
