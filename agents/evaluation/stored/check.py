"""Whether an output folder is a whole and unchanged record of a benchmark run, as `zerosearch compare --check` reports.

    settings       complete, and those of the benchmark definition in them
    hashes         results.json is as the command wrote it
    cells          every cell of the definition is there and complete, with the same questions for all
    transcripts    as far as they are there, they say what results.json says

Only JSON is read. Nothing in the folder is imported or run, whatever else it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerosearch_env.engines.registry import engine_name
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.records.transcripts import read_transcripts
from zerosearch_env.types import JsonObject

from ...config.definition import Definition, definition_hash
from ...runs.output import TRANSCRIPTS_FOLDER, settings_differences
from ..episodes import EpisodeResult, episode_result, episode_row
from ..hashes import changed_parts
from ..results import Cell, CellKey, Evaluation, read_results, results_file

REQUIRED = (
    *("definition", "dataset", "split", "seed", "protocol", "max_turns", "top_k", "noise_unit", "per_hop"),
    *("questions", "abstentions", "agents", "engines", "contents", "versions", "command"),
)
"""The settings that a submission says."""
_DECIDED = ("dataset", "split", "world", "seed", "per_hop", "noise_unit", "max_turns", "top_k", "abstentions")
"""The settings that are values of the definition, too."""
_SHOWN = 5
"""How many problems of the same kind are listed."""


@dataclass(frozen=True)
class Check:
    """What was found out about a folder."""

    folder: Path
    problems: tuple[str, ...]
    """Why it is refused; empty if it is accepted."""
    notes: tuple[str, ...] = ()
    """What could be compared, and what could not."""
    definition: Mapping[str, str] = field(default_factory=dict)
    """`name` and `hash` of the benchmark definition, if it has one."""

    @property
    def accepted(self) -> bool:
        """True without problems."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder),
            "accepted": self.accepted,
            "definition": dict(self.definition) or None,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def check_folder(folder: Path) -> Check:
    """Check an output folder of `zerosearch bench robustness`.

    Args:
        folder: the folder with `results.json`.
    """
    file = results_file(folder)
    try:
        values = read_results(file)
        evaluation = Evaluation(tuple(map(Cell.from_record, values["cells"])), dict(values["settings"]))
        problems = [
            f"{part} does not fit its hash: it was changed after it was written" for part in changed_parts(values)
        ]
    except DataError as cause:
        return Check(folder, (str(cause),))
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        return Check(folder, (f"{file}: a cell is incomplete ({cause!r})",))
    if "hash" not in values:
        problems.append("results.json has no hashes: it is of an earlier version; measure again with this one")
    settings = evaluation.settings
    problems += [f"the settings lack {name!r}" for name in REQUIRED if name not in settings]
    problems += [f"the settings say nothing about the agent {a!r}" for a in _unknown_agents(evaluation)]
    problems += _shortened(_question_problems(evaluation.cells))
    record = settings.get("definition")
    names = {key: str(record[key]) for key in ("name", "hash") if key in record} if isinstance(record, dict) else {}
    if record is not None:
        problems += _definition_problems(evaluation, record)
    transcripts = _Transcripts(evaluation)
    problems += _shortened(transcripts.problems(file.parent / TRANSCRIPTS_FOLDER))
    return Check(folder, tuple(problems), (transcripts.coverage(),), names)


def _unknown_agents(evaluation: Evaluation) -> list[str]:
    known = evaluation.settings.get("agents", {})
    return [agent for agent in evaluation.agents if agent not in known]


def _shortened(problems: Sequence[str]) -> list[str]:
    more = len(problems) - _SHOWN
    return list(problems) if more <= 0 else [*problems[:_SHOWN], f"... and {more} more of this kind"]


def _question_problems(cells: Sequence[Cell]) -> list[str]:
    """Cells that hold an episode twice, or other questions than the first complete cell."""
    found = []
    whole = next((cell for cell in cells if cell.complete), None)
    expected = {} if whole is None else {result.key: result.question_id for result in whole.episodes}
    for cell in cells:
        (first, times), *_ = Counter(result.key for result in cell.episodes).most_common(1) or [((0, 0), 0)]
        if times > 1:
            found.append(f"{cell.key}: the episode of question {first[0]} is there {times} times")
        other = next((r for r in cell.episodes if expected and expected.get(r.key) != r.question_id), None)
        if other is not None:
            found.append(f"{cell.key}: question {other.index} ({other.question_id!r}) is not one of the first cell")
    return found


def _definition_problems(evaluation: Evaluation, record: Any) -> list[str]:
    """What does not fit the definition in the settings."""
    settings = evaluation.settings
    try:
        name, stored, values = record["name"], record["hash"], record["values"]
        definition = Definition.from_values({"name": name, **values}, "the definition in results.json")
    except (ConfigError, KeyError, TypeError) as cause:
        return [f"the definition in the settings cannot be read ({cause})"]
    problems = []
    if definition_hash(values) != stored:
        problems.append(f"the definition {name!r} does not fit its hash: {stored} -> {definition_hash(values)}")
    shared = [name for name in _DECIDED if name in values and name in settings]
    differences = settings_differences(*({name: source[name] for name in shared} for source in (values, settings)))
    problems += [f"a setting is not that of the definition: {difference}" for difference in differences]
    engine = engine_name(definition.engine)
    wanted = {
        CellKey(agent, engine, level, kind) for agent in evaluation.agents for kind, level in definition.conditions
    }
    cells = {cell.key: cell for cell in evaluation.cells}
    if not cells:
        problems.append("there is no cell")
    problems += _shortened([f"{key}: the cell is missing" for key in sorted(wanted - cells.keys())])
    found = [cells[key] for key in sorted(wanted & cells.keys())]
    problems += _shortened([f"{cell.key}: {cell.shortfall}" for cell in found if not cell.complete])
    groups = {group for cell in found for group in cell.groups}
    planned = definition.questions * definition.samples * (max(1, len(groups)) if definition.per_hop else 1)
    other = [f"{cell.key}: {cell.planned} episodes planned, expected {planned}" for cell in found]
    return problems + _shortened([text for text, cell in zip(other, found, strict=True) if cell.planned != planned])


class _Transcripts:
    """Compares the transcripts of a folder with the episodes of its results, line by line.

    Args:
        evaluation: the results.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._cells: dict[CellKey, dict[tuple[int, int], EpisodeResult]] = {}
        for cell in evaluation.cells:
            self._cells.setdefault(cell.key.played, {result.key: result for result in cell.episodes})
        self._seen: dict[CellKey, dict[tuple[int, int], bool]] = {key: {} for key in self._cells}

    def problems(self, folder: Path) -> list[str]:
        """What does not fit, one text per cell or file."""
        found = []
        for file in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
            try:
                for record in read_transcripts(file):
                    if text := self._compare(record):
                        found.append(f"{file.name}: {text}")
            except DataError as cause:
                found.append(str(cause))
        for key, seen in self._seen.items():
            if wrong := [episode for episode, fits in seen.items() if not fits]:
                count = "1 episode is" if len(wrong) == 1 else f"{len(wrong)} episodes are"
                found.append(f"{key}: {count} not what the transcripts say, the first is question {wrong[0][0]}")
        return list(dict.fromkeys(found))

    def _compare(self, record: JsonObject) -> str:
        """Take note of whether a transcript fits; returns a problem of the line itself, or ""."""
        try:
            key = CellKey.of_transcript(record)
            result = episode_result(record)
        except (DataError, KeyError, TypeError) as cause:
            return f"a line is not the transcript of a finished episode ({cause})"
        if key not in self._cells:
            return f"it has episodes of a cell that results.json lacks: {key}"
        stored = self._cells[key].get(result.key)
        # Of an episode that was played again, the last line counts.
        self._seen[key][result.key] = stored is not None and same_episode(stored, result)
        return ""

    def coverage(self) -> str:
        """How many episodes of results.json were compared with a transcript."""
        total = fits = 0
        for key, episodes in self._cells.items():
            if not self._seen[key] and any(self._seen[twin.key.played] for twin in self._evaluation.twins(key)):
                continue
            total += len(episodes)
            fits += sum(self._seen[key].values())
        return f"{fits:,} of {total:,} played episodes have a transcript that says the same"


def same_episode(stored: EpisodeResult, played: EpisodeResult) -> bool:
    """Whether a stored result is that of a transcript. Scores that were added later are only in the results.

    Args:
        stored: the result in results.json.
        played: the result that the transcript gives (`episode_result`).
    """
    row, expected = episode_row(stored), episode_row(played)
    extra, played_extra = row.pop("extra", {}), expected.pop("extra", {})
    # Results of a version that did not store an entry lack it.
    known = {name: value for name, value in expected.items() if name in row or name not in _LATER}
    return row == known and all(extra.get(name) == value for name, value in played_extra.items())


_LATER = ("found", "noisy_searches", "recall", "relation")
