"""Several output folders as one evaluation, for the report and for comparisons.

    folders -> read_source -> Source -> join_sources -> Joined (one Evaluation, and where each cell comes from)

Two folders can be joined if their agents were given the same task: the same questions, seed, rules, engines and
benchmark definition. What belongs to an agent (its protocol, temperature, tags) may differ. Nothing in a folder is run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zerosearch_env.errors import DataError

from ..config.definition import definition_differences
from ..runs.output import EVALUATION_FOLDER, RESULTS_FILE, settings_differences
from .results import CellKey, Evaluation, load_evaluation
from .store import transcript_path

_TASK = (
    *("dataset", "split", "world", "columns", "on_bad_row", "questions", "per_hop", "seed"),
    *("max_turns", "top_k", "noise_unit", "abstentions"),
)
"""The settings that decide what every agent is asked. They must agree; one that a folder lacks counts as None."""
_VERSION = "the version of zerosearch-env"


@dataclass(frozen=True)
class Source:
    """An output folder and the evaluation in it."""

    folder: Path
    """The folder that holds `results.json`."""
    evaluation: Evaluation
    names: Mapping[str, str] = field(default_factory=dict)
    """The name of each agent in this folder -> its name in the joined evaluation, where the two differ."""


@dataclass(frozen=True)
class Joined:
    """The evaluations of several folders as one."""

    evaluation: Evaluation
    sources: tuple[Source, ...]

    def stored(self, key: CellKey) -> tuple[Path, CellKey] | None:
        """The file that holds the transcripts of a cell of `evaluation`, and the key that they have there.

        Returns:
            None if no folder has the cell. The file may be missing.
        """
        for source in self.sources:
            for cell in source.evaluation.cells:
                if cell.key._replace(agent=source.names.get(cell.agent, cell.agent)) == key:
                    return transcript_path(source.folder, cell.key), cell.key
        return None


def join(folders: Sequence[str | os.PathLike[str]]) -> Evaluation:
    """The evaluations of several output folders as one.

    An agent name that occurs in several folders becomes `NAME (FOLDER)` in each of them.

    Args:
        folders: output folders of `zerosearch eval` or `bench robustness`, or run directories with an evaluation.

    Raises:
        DataError: a folder holds no results, or two folders differ in what the agents were asked; the message names
            every difference.
    """
    return join_sources([read_source(folder) for folder in folders]).evaluation


def read_source(folder: str | os.PathLike[str]) -> Source:
    """Read the evaluation of one output folder or run directory.

    Raises:
        DataError: the folder holds no results, or the file is invalid.
    """
    path = Path(folder)
    inner = path / EVALUATION_FOLDER
    place = inner if not (path / RESULTS_FILE).exists() and (inner / RESULTS_FILE).exists() else path
    return Source(place, load_evaluation(place))


def join_sources(sources: Sequence[Source]) -> Joined:
    """Join evaluations that were read by `read_source`.

    Raises:
        DataError: none was given, one was given twice, or two differ in what the agents were asked.
    """
    if not sources:
        raise DataError("no folder given: expected the output folder of an evaluation")
    first, *others = sources
    if twice := [str(place) for place, n in Counter(s.folder.resolve() for s in sources).items() if n > 1]:
        raise DataError(f"{twice[0]} was given twice; name each folder once")
    for other in others:
        if differences := _differences(first, other):
            raise DataError(
                f"{first.folder} and {other.folder} cannot be compared, because their agents were not given the same "
                f"task ({'; '.join(differences)}); compare folders that were made with the same options"
            )
    renamed = _renamed(sources)
    return Joined(_merged(renamed), tuple(renamed))


def _differences(first: Source, other: Source) -> list[str]:
    """What the agents of two folders were asked differently, each as `name: first -> other`."""
    left, right = first.evaluation.settings, other.evaluation.settings
    found = _definition_differences(left.get("definition"), right.get("definition"))
    found += settings_differences(*({name: settings.get(name) for name in _TASK} for settings in (left, right)))
    for kind in ("contents", "noise"):
        found += _record_differences(left.get(kind, {}), right.get(kind, {}))
    engines, other_engines = left.get("engines", {}), right.get("engines", {})
    for name in engines.keys() & other_engines.keys():
        found += [f"engine {name}, {text}" for text in _record_differences(engines[name], other_engines[name])]
    if not set(first.evaluation.engines) & set(other.evaluation.engines) and first.evaluation.cells:
        names = [", ".join(source.evaluation.engines) or "none" for source in (first, other)]
        found.append(f"engine: {names[0]} -> {names[1]}")
    return found or _question_differences(first.evaluation, other.evaluation)


def _definition_differences(first: Any, other: Any) -> list[str]:
    """What differs between the benchmark definitions of two folders; None stands for an evaluation without one."""
    records = [record if isinstance(record, dict) else {} for record in (first, other)]
    if records[0].get("hash") == records[1].get("hash"):
        return []
    names = [f"{record['name']} ({record['hash']})" if record else "none" for record in records]
    values = [record.get("values", {}) for record in records]
    return [f"definition: {names[0]} -> {names[1]}", *(definition_differences(*values) if all(values) else [])]


def _record_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The entries that two identity records share but disagree on. The version of the package may differ."""
    shared = [name for name in first if name in other and name != _VERSION]
    return settings_differences(*({name: record[name] for name in shared} for record in (first, other)))


def _question_differences(first: Evaluation, other: Evaluation) -> list[str]:
    """The first question that two evaluations hold different ones for, if there is one."""
    ids = {result.index: result.question_id for cell in first.cells for result in cell.episodes}
    for cell in other.cells:
        for result in cell.episodes:
            if ids.get(result.index, result.question_id) != result.question_id:
                return [f"question {result.index}: {ids[result.index]!r} -> {result.question_id!r}"]
    return []


def _renamed(sources: Sequence[Source]) -> list[Source]:
    """The sources with a new name for every agent whose name occurs in several of them."""
    counts = Counter(agent for source in sources for agent in source.evaluation.agents)
    labels = _labels([source.folder for source in sources])
    return [
        replace(source, names={agent: f"{agent} ({label})" for agent in source.evaluation.agents if counts[agent] > 1})
        for source, label in zip(sources, labels, strict=True)
    ]


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart; `evaluation` of a run directory is left out."""
    parts = [folder.resolve().parts for folder in folders]
    parts = [path[:-1] if path[-1] == EVALUATION_FOLDER and len(path) > 2 else path for path in parts]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        labels = ["/".join(path[-length:]) for path in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def _merged(sources: Sequence[Source]) -> Evaluation:
    """One evaluation with the cells of all sources."""
    if len(sources) == 1:
        return sources[0].evaluation
    cells = []
    agents: dict[str, Any] = {}
    for source in sources:
        name_of = source.names
        cells += [replace(cell, agent=name_of.get(cell.agent, cell.agent)) for cell in source.evaluation.cells]
        identities = source.evaluation.settings.get("agents", {})
        agents |= {name_of.get(name, name): record for name, record in identities.items()}
    settings = [source.evaluation.settings for source in sources]
    engines = {name: record for values in settings for name, record in values.get("engines", {}).items()}
    folders = [
        {"folder": str(source.folder), "command": values.get("command", ""), "versions": values.get("versions", {})}
        for source, values in zip(sources, settings, strict=True)
    ]
    unique = {name: value for name, value in settings[0].items() if name not in ("command", "versions")}
    return Evaluation(tuple(cells), {**unique, "agents": agents, "engines": engines, "folders": folders})
