"""Results of an evaluation: one cell per (agent, engine, noise kind and level), one file.

    EpisodeResult -> Cell -> Evaluation -> results.json

The file stores the scores of every episode, not only means, so that any later comparison on the same questions can be
paired. It is rewritten after each cell by an atomic replace: an interrupted run loses at most the episodes that were
still being played.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from zerosearch_env.errors import DataError
from zerosearch_env.files import write_text
from zerosearch_env.game.noise_kinds import DISTRACTOR
from zerosearch_env.types import StopReason

from ..runs.output import RESULTS_FILE
from .episodes import OUTCOMES, EpisodeResult, by_question, episode_row, metric_kind, read_row, with_values
from .hashes import changed_parts, file_hash, record_hash
from .statistics import EMPTY, Interval, paired_difference
from .summaries import Summary, summarise

SCHEMA_VERSION = 2


class CellKey(NamedTuple):
    """The place of a cell in its evaluation."""

    agent: str
    engine: str
    noise_level: float
    noise_kind: str = str(DISTRACTOR)
    """The mixture of kinds of noise, as text."""

    def __str__(self) -> str:
        kind = "" if self.noise_kind == str(DISTRACTOR) else f" {self.noise_kind}"
        return f"{self.agent}, {self.engine}, noise {self.noise_level:g}{kind}"

    @classmethod
    def of_transcript(cls, record: Mapping[str, Any]) -> CellKey:
        """The cell whose play left a transcript. Transcripts of earlier versions name no kind of noise: distractors.

        Raises:
            KeyError: it is not a transcript of an evaluation.
            TypeError: the same.
        """
        extra, kind = record["extra"], record.get("noise_kind", str(DISTRACTOR))
        return cls(extra["agent"], extra["engine"], record["noise_level"], kind).played

    @property
    def played(self) -> CellKey:
        """The cell whose episodes this one has: without noise, all kinds have those of `distractor`."""
        return self if self.noise_level else self._replace(noise_kind=str(DISTRACTOR))


@dataclass(frozen=True)
class Cell:
    """One agent on one engine with one kind of noise at one level."""

    agent: str
    engine: str
    noise_level: float
    planned: int
    """Episodes that the cell should hold; fewer are there when the run was interrupted."""
    episodes: tuple[EpisodeResult, ...] = field(repr=False)
    seconds: float = 0.0
    """Wall time of playing the cell; less in later cells, if the agent remembers turns of earlier ones."""
    samples: int = 1
    """Episodes per question."""
    noise_kind: str = str(DISTRACTOR)
    """The mixture of kinds of noise, as text."""
    spent: Mapping[str, Any] | None = None
    """What playing the cell took (`Spending.as_dict`); None if that is not known."""

    @property
    def key(self) -> CellKey:
        """Identifies the cell within its evaluation."""
        return CellKey(self.agent, self.engine, self.noise_level, self.noise_kind)

    @property
    def complete(self) -> bool:
        """True when every planned episode was played to its end, without a failure of the engine or the agent."""
        return len(self.finished) == self.planned

    @property
    def shortfall(self) -> str:
        """What an incomplete cell lacks: `5 of 8 episodes finished; the agent failed in 3`."""
        reasons = self.summary().stop_reasons
        counts = {"engine": reasons.get(StopReason.ENGINE_ERROR), "agent": reasons.get(StopReason.AGENT_ERROR)}
        failed = "".join(f"; the {who} failed in {count}" for who, count in counts.items() if count)
        return f"{len(self.finished)} of {self.planned} episodes finished{failed}"

    @property
    def finished(self) -> tuple[EpisodeResult, ...]:
        """The episodes that count; the others failed."""
        return tuple(result for result in self.episodes if not result.failed)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its questions, sorted; `("",)` if questions have no group."""
        return tuple(sorted({result.group for result in self.episodes}))

    @property
    def data_sources(self) -> tuple[str, ...]:
        """The data sets of its questions, sorted; empty if there is only one, or if they are not known."""
        names = {result.data_source for result in self.episodes if result.data_source}
        return tuple(sorted(names)) if len(names) > 1 else ()

    @property
    def relations(self) -> tuple[str, ...]:
        """What its questions ask for, sorted; empty if there is only one relation, or if they are not known."""
        names = {result.relation for result in self.episodes if result.relation}
        return tuple(sorted(names)) if len(names) > 1 else ()

    def select(
        self, group: str | None = None, data_source: str | None = None, relation: str | None = None
    ) -> tuple[EpisodeResult, ...]:
        """The episodes of some questions, failed ones included.

        Args:
            group: `"1-hop"`, ...; None takes every episode.
            data_source: the name of a data set; None takes every episode.
            relation: what the question asks for; None takes every episode.
        """
        wanted = (group, data_source, relation)
        if wanted == (None, None, None):
            return self.episodes
        return tuple(
            result
            for result in self.episodes
            if all(want in (None, has) for want, has in zip(wanted, result.subsets, strict=True))
        )

    @cached_property
    def _summaries(self) -> dict[tuple[str | None, ...], Summary]:
        """Cache of summaries: their bootstrap is the expensive part of saving and printing."""
        return {}

    def summary(self, group: str | None = None, data_source: str | None = None, relation: str | None = None) -> Summary:
        """Means with 95 % intervals, over the episodes of `select`.

        Args:
            group: see `select`.
            data_source: see `select`.
            relation: see `select`.
        """
        key = (group, data_source, relation)
        if key not in self._summaries:
            self._summaries[key] = summarise(self.select(*key), self.samples)
        return self._summaries[key]

    def scores(
        self, metric: str, group: str | None = None, data_source: str | None = None, relation: str | None = None
    ) -> dict[int, float]:
        """The value of a metric by the question's index, of the finished questions that have one; the mean of samples.

        Args:
            metric: one of `METRIC_KINDS`, or an additional score.
            group: see `select`.
            data_source: see `select`.
            relation: see `select`.
        """
        chosen = self.select(group, data_source, relation)
        return by_question(with_values((result for result in chosen if not result.failed), metric))

    @cached_property
    def record(self) -> dict[str, Any]:
        """Plain JSON values: the summary for human readers, the episodes for later comparisons.

        `hash` is the `record_hash` of the rest.
        """
        groups = [group for group in self.groups if group]
        record = {
            "agent": self.agent,
            "engine": self.engine,
            "noise_level": self.noise_level,
            "noise_kind": self.noise_kind,
            "planned": self.planned,
            **({"samples": self.samples} if self.samples > 1 else {}),
            "complete": self.complete,
            "seconds": self.seconds,
            **({"spent": dict(self.spent)} if self.spent else {}),
            "summary": {"all": self.summary().as_dict(), **{g: self.summary(g).as_dict() for g in groups}},
            "data_sources": {name: self.summary(data_source=name).as_dict() for name in self.data_sources},
            "episodes": [episode_row(result) for result in self.episodes],
        }
        return record | {"hash": record_hash(record)}

    @cached_property
    def json(self) -> str:
        """`record` as JSON. Cached, because the results file is rewritten after every cell."""
        return json.dumps(self.record, ensure_ascii=False)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Cell:
        """The inverse of `record`; summaries are recomputed from the episodes."""
        names = ("agent", "engine", "noise_level", "planned", "seconds")
        return cls(
            **{name: values[name] for name in names},
            episodes=tuple(read_row(row) for row in values["episodes"]),
            samples=values.get("samples", 1),
            noise_kind=values.get("noise_kind", str(DISTRACTOR)),
            spent=values.get("spent"),
        )


@dataclass(frozen=True)
class Evaluation:
    """All measured cells, and the settings they were measured with."""

    cells: tuple[Cell, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The information needed to repeat it: seed, dataset, split, protocol, limits, versions, command."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Agent names in the order in which they were first measured."""
        return tuple(dict.fromkeys(cell.agent for cell in self.cells))

    @property
    def engines(self) -> tuple[str, ...]:
        """Engine names in the order in which they were first used."""
        return tuple(dict.fromkeys(cell.engine for cell in self.cells))

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Noise levels, ascending."""
        return tuple(sorted({cell.noise_level for cell in self.cells}))

    @property
    def noise_kinds(self) -> tuple[str, ...]:
        """Mixtures of kinds of noise, as text, in the order in which they were first used."""
        return tuple(dict.fromkeys(cell.noise_kind for cell in self.cells))

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of questions, sorted, without the empty one."""
        return tuple(sorted({group for cell in self.cells for group in cell.groups if group}))

    @property
    def data_sources(self) -> tuple[str, ...]:
        """Data sets of the questions, sorted; empty if there is only one."""
        return tuple(sorted({name for cell in self.cells for name in cell.data_sources}))

    @property
    def relations(self) -> tuple[str, ...]:
        """What the questions ask for, sorted; empty if there is only one relation."""
        return tuple(sorted({name for cell in self.cells for name in cell.relations}))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What answers that are not right came to (`OUTCOMES`), if it occurs; with truthfulness if some are wrong."""
        summaries = [cell.summary() for cell in self.cells]
        names = [name for name in OUTCOMES if any(getattr(summary, name).mean > 0 for summary in summaries)]
        return (*names, "truthfulness") if "hallucinated" in names else tuple(names)

    @property
    def samples(self) -> int:
        """Episodes per question; of cells that differ, the largest number."""
        return max((cell.samples for cell in self.cells), default=1)

    @property
    def additional_scores(self) -> tuple[str, ...]:
        """Names of the additional scores, in the order in which they were asked for."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.summary().extra))

    def on_engine(self, engine: str) -> Evaluation:
        """The cells of one engine, with the same settings."""
        return Evaluation(tuple(cell for cell in self.cells if cell.engine == engine), self.settings)

    def find(
        self, agent: str, noise_level: float, engine: str | None = None, noise_kind: str | None = None
    ) -> Cell | None:
        """The cell of an agent at a noise level, or None. If `engine` or `noise_kind` is None, the first such cell."""
        for cell in self.cells:
            same = cell.agent == agent and cell.noise_level == noise_level
            if same and engine in (None, cell.engine) and noise_kind in (None, cell.noise_kind):
                return cell
        return None

    def twins(self, key: CellKey, *, searches: bool = True) -> tuple[Cell, ...]:
        """The other cells of an agent and engine that have the episodes of a cell, which are played and stored once.

        Without noise, all kinds have the same episodes. An agent that never searches draws no noise, so it plays one
        cell for all levels and kinds.

        Args:
            key: the cell; it need not have been measured.
            searches: False if the agent is known never to search. Otherwise the measured episodes show it: they are
                the same.
        """
        others = [c for c in self.cells if (c.agent, c.engine) == (key.agent, key.engine)]
        own = next((cell.episodes for cell in others if cell.key.played == key.played), ())
        return tuple(
            cell
            for cell in others
            if cell.key != key and (not searches or cell.key.played == key.played or (own and cell.episodes == own))
        )

    def difference(
        self,
        first: str,
        second: str,
        noise_level: float,
        *,
        engine: str | None = None,
        noise_kind: str | None = None,
        metric: str = "em",
        group: str | None = None,
    ) -> Interval:
        """The paired difference `first - second` of a metric, over the questions that both agents finished.

        Of several samples of a question, the mean is taken.

        Args:
            first: name of an agent.
            second: name of the agent it is compared with.
            noise_level: the level at which they are compared.
            engine: engine name; None takes the first engine that has the cell.
            noise_kind: the mixture of kinds of noise, as text; None takes the first that has the cell.
            metric: one of `METRIC_KINDS`, or an additional score; episodes in which it has no value are left out.
            group: `"1-hop"`, ...; None takes all questions.
        """
        a, b = (self.find(agent, noise_level, engine, noise_kind) for agent in (first, second))
        return _difference(a, b, metric, group)

    def kind_difference(
        self,
        agent: str,
        first: str,
        second: str,
        noise_level: float,
        *,
        engine: str | None = None,
        metric: str = "em",
        group: str | None = None,
    ) -> Interval:
        """The paired difference `first - second` of a metric between two kinds of noise, for the same agent.

        The same searches of the same episodes are noisy with both kinds, as far as the agent searches equally often.

        Args:
            agent: name of the agent.
            first: a mixture of kinds of noise, as text.
            second: the mixture that it is compared with.
            noise_level: the level at which they are compared.
            engine: see `difference`.
            metric: see `difference`.
            group: see `difference`.
        """
        a, b = (self.find(agent, noise_level, engine, kind) for kind in (first, second))
        return _difference(a, b, metric, group)

    def merged(self, cells: Iterable[Cell], **settings: Any) -> Evaluation:
        """This evaluation with `cells` added; a cell with the same key replaces the old one."""
        table = {cell.key: cell for cell in self.cells} | {cell.key: cell for cell in cells}
        return Evaluation(tuple(table.values()), {**self.settings, **settings})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the schema version and the hashes by which edits are recognised (`hashes.py`)."""
        cells = [cell.record for cell in self.cells]
        settings = dict(self.settings)
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": settings,
            "cells": cells,
            "hash": file_hash(settings, cells),
        }


def _difference(first: Cell | None, second: Cell | None, metric: str, group: str | None) -> Interval:
    """The paired difference of a metric, over the questions that both cells have finished."""
    if first is None or second is None:
        return EMPTY
    left, right = (cell.scores(metric, group) for cell in (first, second))
    common = sorted(left.keys() & right.keys())
    kind = metric_kind(metric, max(first.samples, second.samples))
    return paired_difference([left[i] for i in common], [right[i] for i in common], kind)


def save_evaluation(evaluation: Evaluation, folder: str | os.PathLike[str]) -> Path:
    """Write `results.json` into `folder` (created if missing) by an atomic replace; returns its path."""
    path = Path(folder) / RESULTS_FILE
    # In the order of `Evaluation.as_dict`, from the texts of the cells.
    head = json.dumps({"schema_version": SCHEMA_VERSION, "settings": dict(evaluation.settings)}, ensure_ascii=False)
    cells = ", ".join(cell.json for cell in evaluation.cells)
    tail = json.dumps({"hash": file_hash(evaluation.settings, [cell.record for cell in evaluation.cells])})
    write_text(path, f'{head[:-1]}, "cells": [{cells}], {tail[1:]}')
    return path


def load_evaluation(path: str | os.PathLike[str]) -> Evaluation:
    """Read an evaluation from a `results.json` or from the folder that holds one.

    Raises:
        DataError: the file is missing, is not a results file, has another schema version, or was changed after it was
            written.
    """
    file = results_file(path)
    values = read_results(file)
    try:
        evaluation = Evaluation(tuple(Cell.from_record(cell) for cell in values["cells"]), values["settings"])
        changed = changed_parts(values)
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise DataError(f"{file}: a cell is incomplete ({cause!r})") from cause
    if changed:
        raise DataError(
            f"{file} was changed after it was written: {changed[0]} does not fit its hash; restore the file that the "
            "command wrote"
        )
    return evaluation


def results_file(path: str | os.PathLike[str]) -> Path:
    """The `results.json` that a path names: the file itself, or the one in a folder."""
    file = Path(path)
    return file / RESULTS_FILE if file.is_dir() else file


def read_results(file: Path) -> dict[str, Any]:
    """The content of a results file as plain JSON, with a schema version that this version reads.

    Raises:
        DataError: the file is missing, is not a results file, or has another schema version.
    """
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise DataError(f"{file}: no such file; expected the output folder of `zerosearch eval`") from cause
    except (UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise DataError(f"{file}: not a results file ({cause})") from cause
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{file}: expected schema version {SCHEMA_VERSION}, got {version!r}")
    return values
