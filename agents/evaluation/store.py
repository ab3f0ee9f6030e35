"""What an evaluation leaves in its output folder, and what a later one takes over from there.

    Store      results.json: the cells, and what they were measured with
    Journal    transcripts/: one file per cell, one line per finished episode

An evaluation that is continued, after a failure or a kill, plays only the episodes that have no transcript or failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.files import replaced_file
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise_kinds import DISTRACTOR
from zerosearch_env.identity import changes, text_hash
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record

from ..runs.output import RESULTS_FILE, TRANSCRIPTS_FOLDER, WAY_OUT, check_definition, check_settings
from .episodes import EpisodeResult, episode_result
from .items import Item
from .results import Cell, CellKey, Evaluation, load_evaluation, save_evaluation


@dataclass
class Store:
    """The output folder of an evaluation: `results.json`, and one transcript file per cell.

    If the folder already holds results with the same settings, complete cells are reused, and so are the finished
    episodes of incomplete ones: an interrupted evaluation continues where it stopped. A cell is not reused if anything
    that it was measured with has changed.
    """

    folder: Path
    settings: Mapping[str, Any]
    """Settings that must agree for earlier cells to be reused; stored in the file."""
    agents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Agent name -> its record (`player_identity`)."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """What every cell is measured with: the record of the package and of the questions (`zerosearch_env.identity`)."""
    engines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Engine name -> its record (`engine_identity`)."""
    noise: Mapping[str, str] = field(default_factory=dict)
    """What cells with other noise than distractors are measured with, too: the record of the questions that wrong
    answers and other topics are taken from."""
    definition: Mapping[str, Any] | None = None
    """The record of the benchmark's definition (`Definition.record`); None: an evaluation that follows none."""
    planned: Iterable[CellKey] | None = None
    """The cells that will be measured, if known: changed cells must be among them."""
    evaluation: Evaluation = field(init=False)
    replaced: str = field(init=False, default="")
    """A clause that says what has changed since cells were measured which are therefore not reused; "" if nothing."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        defined = {} if self.definition is None else {"definition": dict(self.definition)}
        self.evaluation = Evaluation((), {**self.settings, **defined, **self._record()})
        if (self.folder / RESULTS_FILE).exists():
            try:
                earlier = load_evaluation(self.folder)
            except DataError as cause:
                raise DataError(f"{cause}; {WAY_OUT}") from cause
            self._take_over(earlier)

    def _record(self, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The identity of all cells, for the file."""
        records = {"agents": self.agents, "engines": self.engines, "contents": self.contents}
        records |= {"noise": self.noise} if self.noise else {}
        return {name: {**(earlier or {}).get(name, {}), **now} for name, now in records.items()}

    def _take_over(self, earlier: Evaluation) -> None:
        """Reuse the cells of an earlier run, except those that something has changed for.

        Raises:
            ConfigError: the earlier run had other settings, or changed cells would stay without being measured again.
        """
        check_definition(self.folder, earlier.settings.get("definition"), self.definition)
        # "samples" is only recorded if there are several.
        recorded = {name: earlier.settings.get(name) for name in (*self.settings, "samples")}
        check_settings(self.folder, [], recorded, self.settings)
        reasons: dict[CellKey, list[str]] = {}
        for cell in earlier.cells:
            if why := self._changes(earlier.settings, cell.key):
                reasons[cell.key] = why
        changed = "; ".join(dict.fromkeys(reason for why in reasons.values() for reason in why))
        planned = reasons if self.planned is None else set(self.planned)
        if left := [key for key in reasons if key not in planned]:
            raise ConfigError(
                f"since the results in {self.folder} were measured, {changed}; {len(left)} of them would stay as they "
                f"are (the first is {left[0]}): {WAY_OUT}"
            )
        reused = tuple(cell for cell in earlier.cells if cell.key not in reasons)
        self.evaluation = Evaluation(reused, {**earlier.settings, **self._record(earlier.settings)})
        if reasons:
            count = "1 cell is" if len(reasons) == 1 else f"{len(reasons)} cells are"
            self.replaced = f"compared with the earlier run, {changed}: {count} measured again"

    def _changes(self, earlier: Mapping[str, Any], key: CellKey) -> list[str]:
        """What has changed since the earlier run for a cell."""
        agent, engine, *_ = key
        clauses = changes(earlier.get("contents", {}), self.contents)
        if key.played.noise_kind != str(DISTRACTOR):
            clauses += changes(earlier.get("noise", {}), self.noise)
        for kind, name, now in (("engines", engine, self.engines), ("agents", agent, self.agents)):
            record = earlier.get(kind, {}).get(name)
            clauses += changes(record if isinstance(record, dict) else {}, now.get(name, {}))
        return clauses

    def journal(self, key: CellKey, items: Sequence[Item]) -> Journal:
        """The journal of a cell: the finished episodes that a run with the same settings and agent has left."""
        agent, engine, level, kind = key
        made_with: list[Any] = [self.settings, self.agents.get(agent), self.contents, self.engines.get(engine)]
        made_with += [self.noise] if key.played.noise_kind != str(DISTRACTOR) else []
        run = text_hash(json.dumps(made_with, sort_keys=True, default=str))
        earlier = self.evaluation.find(agent, level, engine, kind)
        seconds = 0.0 if earlier is None else earlier.seconds
        return Journal(transcript_path(self.folder, key), key, run, items, seconds=seconds)

    def add(self, *cells: Cell, **notes: Any) -> None:
        """Add cells and write the file.

        Args:
            cells: the cells; one with the same key is replaced.
            notes: further information (command, versions) that need not agree when the evaluation is continued.
        """
        self.evaluation = self.evaluation.merged(cells, **notes)
        save_evaluation(self.evaluation, self.folder)


def transcript_path(folder: Path, key: CellKey) -> Path:
    """Path of a cell's transcripts in the output folder of an evaluation."""
    agent, engine, level, kind = key.played
    kinds = () if kind == str(DISTRACTOR) else (_slug(kind),)
    name = "__".join((_slug(agent), _slug(engine), f"noise-{level:.4g}", *kinds))
    return folder / TRANSCRIPTS_FOLDER / f"{name}.jsonl"


class Journal:
    """The transcripts of a cell, from which an interrupted cell is continued: one line per finished episode.

    Args:
        path: the file; None keeps nothing.
        key: the cell. Two cells may share a file, if their names differ only in characters unsuited to file names.
        run: a hash of the settings and the agent. Lines with another one are removed.
        items: the episodes of the cell.
        seconds: how long the cell was played before.

    Attributes:
        finished: results of the episodes that need not be played again, by `Item.key`. Lines of failed episodes, and
            damaged lines, are removed.
    """

    def __init__(
        self, path: Path | None, key: CellKey, run: str, items: Sequence[Item], *, seconds: float = 0.0
    ) -> None:
        self.finished: dict[tuple[int, int], EpisodeResult] = {}
        self.seconds = seconds
        self._key, self._run = key.played, run
        self._writer = None if path is None else TranscriptWriter(path)
        if path is not None and path.exists():
            self._read(path, {item.key for item in items})

    def write(self, episode: Episode, item: Item) -> EpisodeResult:
        """Append a finished episode; returns its result."""
        agent, engine, *_ = self._key
        metadata = episode.question.metadata or {}
        notes: dict[str, Any] = {"sample": item.sample} if item.sample else {}
        relations = metadata.get("relation") or metadata.get("relations") or ()
        if relations:
            notes["relation"] = relations if isinstance(relations, str) else ", ".join(map(str, relations))
        record = transcript_record(
            episode, agent=agent, engine=engine, index=item.index, **notes, hops=metadata.get("hops"), run=self._run
        )
        if self._writer is not None:
            self._writer.write(record)
        return episode_result(record)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _read(self, path: Path, keys: Collection[tuple[int, int]]) -> None:
        """Read what earlier runs have left, and rewrite the file without the lines that no longer count."""
        with path.open("rb") as lines:  # line by line: a large cell has gigabytes of them
            counts = bytes(self._take_over(line, keys) for line in lines)
        if not all(counts):
            with path.open("rb") as lines, replaced_file(path) as stream:
                stream.writelines(compress(lines, counts))

    def _take_over(self, line: bytes, keys: Collection[tuple[int, int]]) -> bool:
        """Take over the result on a line, if it still counts; returns whether the line stays in the file."""
        try:
            record = json.loads(line)
            if CellKey.of_transcript(record) != self._key:
                return True
            result = episode_result(record)
        except (ValueError, KeyError, TypeError):
            return False  # cut off by a kill, or damaged
        if record["extra"].get("run") != self._run or result.failed or result.key not in keys:
            return False
        self.finished[result.key] = result
        return True


def forget(folder: Path) -> None:
    """Remove the files that an earlier evaluation wrote into a folder, and nothing else."""
    (folder / RESULTS_FILE).unlink(missing_ok=True)
    for file in (folder / TRANSCRIPTS_FOLDER).glob("*.jsonl"):
        file.unlink()


def _slug(name: str) -> str:
    """A name with the characters unsuited to file names replaced by "-"."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-") or "agent"
