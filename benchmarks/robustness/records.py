"""Records of the leaderboard: what is kept of an agent's run of a benchmark definition.

    output folder -> check -> a record per agent -> benchmarks/results/robustness/*.json -> docs/leaderboard.md

A record has the figures of the tables and the identity of everything that was measured, but no episodes. Like
results.json it has a hash, by which edits are recognised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from zerosearch_agents.config.definition import Definition
from zerosearch_agents.evaluation.analysis.robustness import KEPT_LEVEL, area_kind, area_scores, levels_of
from zerosearch_agents.evaluation.budget import Spending
from zerosearch_agents.evaluation.episodes import metric_kind
from zerosearch_agents.evaluation.hashes import record_hash
from zerosearch_agents.evaluation.results import Cell, Evaluation, load_evaluation, read_results, results_file
from zerosearch_agents.evaluation.statistics import Interval, Kind, mean_interval
from zerosearch_agents.evaluation.stored.check import check_folder
from zerosearch_env.errors import DataError, unknown_name
from zerosearch_env.files import write_text
from zerosearch_env.identity import changes

from .definitions import definition_names, load_definition

SCHEMA_VERSION = 2
AT_HALF = ("em", "misled", "abstained", "hallucinated", "searches")
"""What a record says of each kind of noise at p = 0.5."""

Record = dict[str, Any]
"""Plain JSON values, as `make_records` returns them."""


def shipped_definitions() -> list[Definition]:
    """The definitions that the leaderboard takes: those that come with the package."""
    return [load_definition(name) for name in definition_names()]


def make_records(folder: Path, definitions: Sequence[Definition] | None = None) -> list[Record]:
    """The records of a folder, one per agent.

    Args:
        folder: the output folder of `zerosearch bench robustness`.
        definitions: the definitions that are accepted; None: `shipped_definitions`.

    Raises:
        DataError: `zerosearch compare --check` refuses the folder (the message names its reasons), or it follows
            another definition.
    """
    check = check_folder(folder)
    if not check.accepted:
        raise DataError(f"{folder} is not a whole and unchanged benchmark run: {'; '.join(check.problems)}")
    known = {definition.hash: definition for definition in definitions or shipped_definitions()}
    if check.definition["hash"] not in known:
        names = " or ".join(f"{definition.name} ({key})" for key, definition in known.items())
        raise DataError(
            f"{folder} follows the definition {check.definition['name']!r} ({check.definition['hash']}), expected "
            f"{names}: play one of them with zerosearch bench robustness --definition NAME"
        )
    evaluation = load_evaluation(folder)
    stored = read_results(results_file(folder))["hash"]
    definition = known[check.definition["hash"]]
    records = [_record(evaluation, agent, definition) for agent in evaluation.agents]
    for record in records:
        record |= {"results_hash": stored, "check": list(check.notes)}
        record["hash"] = record_hash(record)
    return records


def add_record(record: Record, folder: Path) -> Path:
    """Write a record into the folder of all records; a newer run of the same agent replaces the earlier, but its note.

    Args:
        record: as `make_records` returns it.
        folder: the folder of all records.

    Returns:
        The path of the file.

    Raises:
        DataError: there is a record of another agent with that name, or the records of the same definition are of
            other data, another engine or other noise.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", record["agent"].lower()).strip("-")
    file = folder / f"{record['definition']['name']}-{slug}.json"
    for other in read_records(folder):
        same_name = file.name == other["file"]
        if not same_name and other["definition"] == record["definition"]:
            if differences := changes(other["data"], record["data"]):
                raise DataError(
                    f"the run of {record['agent']!r} is not of the same data as {other['file']}, although both follow "
                    f"{record['definition']['name']}: {'; '.join(differences)}"
                )
        elif same_name and (other["agent"], other["identity"]) != (record["agent"], record["identity"]):
            raise DataError(
                f"{file} is the record of another agent, or of another version of it. Give yours another name "
                "(--agent NAME=...) and play again, or delete that file if your run replaces it"
            )
        elif same_name:
            record = {"note": other.get("note", ""), **record}
            record["hash"] = record_hash(record)
    _write(record, file)
    return file


def add_note(agent: str, note: str, folder: Path) -> list[Path]:
    """Write into all records of an agent what it is.

    Args:
        agent: its name.
        note: one line: weights, training, seed, and where they are; "" removes an earlier one.
        folder: the folder of all records.

    Returns:
        The paths of the changed files.

    Raises:
        ConfigError: no record is of an agent of that name.
    """
    records = read_records(folder)
    if all(record["agent"] != agent for record in records):
        raise unknown_name("agent in --note", agent, dict.fromkeys(record["agent"] for record in records))
    files = []
    for record in records:
        if record["agent"] == agent:
            file = folder / record.pop("file")
            record["note"] = " ".join(note.split())
            record["hash"] = record_hash(record)
            _write(record, file)
            files.append(file)
    return files


def _write(record: Record, file: Path) -> None:
    write_text(file, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_records(folder: Path) -> list[Record]:
    """All records of a folder by the name of their files, each with that name as its `file`.

    Raises:
        DataError: one is not a record, or was changed after it was written.
    """
    records = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = json.loads(file.read_text("utf-8"))
            fits = record["schema_version"] == SCHEMA_VERSION and record["hash"] == record_hash(record)
        except (ValueError, KeyError, TypeError) as cause:
            raise DataError(f"{file} is not a record of the leaderboard ({cause!r})") from cause
        if not fits:
            raise DataError(
                f"{file} does not fit its hash or has another schema version: it was changed after it was written. "
                "Restore it, or make it again from the output folder with --add"
            )
        records.append({**record, "file": file.name})
    return records


def _record(evaluation: Evaluation, agent: str, definition: Definition) -> Record:
    """The record of an agent, without what it says about the folder."""
    settings = evaluation.settings
    cells = [cell for cell in evaluation.cells if cell.agent == agent]
    engine = cells[0].engine
    levels = {kind: levels_of(evaluation, agent, engine, kind) for kind in definition.noise_kind}
    # Without noise the cells of all kinds are one. The first was played and has the cost; the others are copies.
    clean = next(cell for cell in cells if cell.noise_level == 0)
    return {
        "schema_version": SCHEMA_VERSION,
        "agent": agent,
        "definition": {"name": definition.name, "hash": definition.hash},
        "questions": settings["questions"],
        "episodes": sum({cell.key.played: cell.planned for cell in cells}.values()),
        "scores": _scores(list(levels.values())),
        "kinds": {kind: _of_kind(of_level) for kind, of_level in levels.items()},
        **_cost(cells),
        "without_noise": {"episodes": clean.planned, **_cost([clean])},
        "identity": settings["agents"][agent],
        "data": {
            **{name: value for name, value in settings["contents"].items() if "version of" not in name},
            **settings["engines"][engine],
            **settings.get("noise", {}),
        },
        "versions": settings["versions"],
        "command": settings["command"],
    }


def _cost(cells: Sequence[Cell]) -> dict[str, Any]:
    """Wall seconds, and what was spent, in playing these cells."""
    spent = sum((Spending(**cell.spent) for cell in cells if cell.spent), Spending())
    return {"seconds": round(sum(cell.seconds for cell in cells), 3), "spent": spent.as_dict()}


def _scores(kinds: Sequence[Mapping[float, Cell]]) -> dict[str, Any]:
    """Means over all kinds of noise: per question first, so that the intervals are over questions."""
    samples = kinds[0][0.0].samples
    half, last = ([of_level[level] for of_level in kinds] for level in (KEPT_LEVEL, 1.0))
    areas = [area_scores(of_level) for of_level in kinds]
    return {
        "area": _mean(areas, "graded").as_dict(),
        "em_clean": mean_interval(list(kinds[0][0.0].scores("em").values()), metric_kind("em", samples)).as_dict(),
        "em": _mean([cell.scores("em") for cell in half], "graded").as_dict(),
        "truthfulness": _mean([cell.scores("truthfulness") for cell in last], "signed").as_dict(),
        "searches": _mean([cell.scores("searches") for cell in half], "count").as_dict(),
    }


def _of_kind(levels: Mapping[float, Cell]) -> dict[str, Any]:
    """The figures of one kind of noise."""
    half, kind = levels[KEPT_LEVEL].summary(), metric_kind("em", levels[KEPT_LEVEL].samples)
    return {
        "area": mean_interval(list(area_scores(levels).values()), area_kind(kind)).as_dict(),
        **{name: getattr(half, name).as_dict() for name in AT_HALF},
        "truthfulness": levels[1.0].summary().truthfulness.as_dict(),
    }


def _mean(parts: Sequence[Mapping[int, float]], kind: Kind) -> Interval:
    """The mean over parts and questions, of the questions that all parts have."""
    common = sorted(set.intersection(*map(set, parts)))
    return mean_interval([fmean(part[index] for part in parts) for index in common], kind)
