"""`report.html`: one self-contained page about a run or about evaluations: curves, tables, transcripts.

    run directory (config.toml, metrics.jsonl, evaluation/, report.json) -> Report -> one HTML file
    output folders of several evaluations -> join -> Report -> one HTML file that compares their agents

The page loads nothing from the network, and its only script is that of the list of episodes. Transcripts that the page
has no room for are in files next to it, which the script loads when a reader opens them. Of the folders only results,
metrics and transcripts are read: nothing else in them reaches the page. Sections without data are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import DataError
from zerosearch_env.files import write_text
from zerosearch_env.records.html import load_templates

from ..evaluation.join import Joined, Source, join_sources, read_source
from ..evaluation.results import Evaluation
from ..runs.advice import format_seconds
from ..runs.output import EVALUATION_FOLDER, NOTES_FILE, REPORT_FILE, RESULTS_FILE, TRANSCRIPTS_FILE
from .analysis import BehaviourSection, Differences, is_significant, p_text
from .charts import MARKERS, STYLES, Chart, percent
from .episodes import TRANSCRIPTS, episode_section
from .held_out import HeldOutSection, has_evaluations
from .kinds import Kinds
from .robustness import Robustness, Role, of_group, roles_of, signed
from .training import Pair, alarm_notes, choose_pairs, choose_stages, training_curves

if TYPE_CHECKING:
    from jinja2 import Environment

    from ..runs.rollbacks import Rollback


@dataclass(frozen=True)
class Notes:
    """What the page says about a run that is in no other file of it."""

    title: str
    lead: str = ""
    """A paragraph under the title, in plain text."""
    stages: Sequence[tuple[str, float]] = ()
    """(name, wall-clock seconds) of each stage."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """The information needed to repeat the run: command, seed, versions, machine."""


@dataclass(frozen=True)
class Report:
    """All data that the page shows; empty sections are left out."""

    notes: Notes
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Sequence[Mapping[str, float]] = ()
    """Records of `metrics.jsonl`."""
    rollbacks: Sequence[Rollback] = ()
    pairs: Sequence[Pair] = ()
    config: str = ""
    """The run's configuration as TOML."""
    sources: tuple[Source, ...] = ()
    """The folders of the evaluation, which hold its transcripts."""

    def charts(self) -> list[Chart]:
        """All charts: exact match and searches over the noise level and during training, then the training curves.

        Titles name the engine if there are several.
        """
        engines = engine_figures(self.evaluation)
        robustness = [
            replace(chart, title=f"{chart.title}, engine {part.engine}") if len(engines) > 1 else chart
            for part in engines
            for chart in part.robustness.kind_charts() + part.robustness.charts()
        ]
        held_out = HeldOutSection(self.metrics).charts() if has_evaluations(self.metrics) else []
        return robustness + held_out + training_curves(self.metrics)


class EngineFigures:
    """All figures of one engine.

    Args:
        evaluation: results of one engine, with at least one cell.
        roles: its agents.
    """

    def __init__(self, evaluation: Evaluation, roles: Sequence[Role]) -> None:
        self._evaluation, self._roles = evaluation, roles
        self.robustness = Robustness(evaluation, roles)
        self.engine = self.robustness.engine

    # What takes time is computed when the page asks for it: the charts alone do not.

    @cached_property
    def kinds(self) -> Kinds:
        """By kind of noise."""
        return Kinds(self._evaluation, self._roles)

    @cached_property
    def differences(self) -> Differences:
        """Between agents."""
        return Differences(self._evaluation, self._roles)

    @cached_property
    def behaviour(self) -> BehaviourSection:
        """What the agents do with what they read."""
        return BehaviourSection(self.kinds)


def engine_figures(evaluation: Evaluation) -> list[EngineFigures]:
    """The figures of every engine. An agent looks the same on all of them."""
    roles = roles_of(evaluation)
    parts = [evaluation.on_engine(engine) for engine in evaluation.engines]
    return [EngineFigures(part, [role for role in roles if role.agent in part.agents]) for part in parts]


def read_report(folder: str | os.PathLike[str]) -> Report:
    """Read the files of a run directory, or of the output folder of `zerosearch eval`.

    Raises:
        DataError: the folder does not exist, or a file in it is invalid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the output folder of `zerosearch train` or `eval`")
    evaluated = any((path / RESULTS_FILE).exists() for path in (folder, folder / EVALUATION_FOLDER))
    source = read_source(folder) if evaluated else None
    config, notes = folder / "config.toml", folder / NOTES_FILE
    heading = f"{'Evaluation' if source and source.folder == folder else 'Run'} {folder.resolve().name}"
    metrics = _read_metrics(folder / "metrics.jsonl")
    return Report(
        notes=Notes(**json.loads(notes.read_text("utf-8")))
        if notes.exists()
        else Notes(heading, describe_run(metrics), facts={} if source is None else _facts(source.evaluation)),
        evaluation=Evaluation() if source is None else source.evaluation,
        metrics=metrics,
        rollbacks=_read_rollbacks(folder),
        pairs=choose_stages(folder / TRANSCRIPTS_FILE)
        if source is None
        else choose_pairs(source.evaluation, source.folder),
        config=config.read_text("utf-8") if config.exists() else "",
        sources=() if source is None else (source,),
    )


def read_joined(folders: Sequence[str | os.PathLike[str]]) -> Report:
    """Read the evaluations of several folders, to compare their agents.

    Raises:
        DataError: a folder holds no results, or the agents of two of them were not given the same task.
    """
    joined = join_sources([read_source(folder) for folder in folders])
    names = [source.folder.resolve().name for source in joined.sources]
    notes = Notes(f"Evaluations {', '.join(names)}", facts=_facts(joined.evaluation))
    return Report(notes, joined.evaluation, sources=joined.sources)


def write_report(folder: str | os.PathLike[str], notes: Notes | None = None, *, transcripts: int = TRANSCRIPTS) -> Path:
    """Write `report.html` into a run directory, from the files in it.

    Args:
        folder: the run directory, or the output folder of `zerosearch eval`.
        notes: stored in the folder for this page and later ones; None uses the stored ones, if any.
        transcripts: number of transcripts of each agent on the page; see `write_page`.

    Returns:
        The path of the page.

    Raises:
        DataError: the folder does not exist, or a file in it is invalid.
    """
    if notes is not None:
        (Path(folder) / NOTES_FILE).write_text(json.dumps(asdict(notes)), encoding="utf-8")
    return write_page(read_report(folder), Path(folder) / REPORT_FILE, transcripts=transcripts)


def write_page(report: Report, path: Path, *, transcripts: int = TRANSCRIPTS, files: bool = True) -> Path:
    """Write a page.

    Args:
        report: what it shows.
        path: the HTML file.
        transcripts: number of transcripts of each agent on the page.
        files: whether the others are written into the folder `NAME_files` next to it, where NAME is the name of the
            file without its suffix. Without files the page lacks them.

    Returns:
        `path`.
    """
    write_text(path, render_report(report, page=path if files else None, transcripts=transcripts))
    return path


def load_page_templates() -> Environment:
    """The templates of the page, with what they need to draw charts and write figures."""
    templates = load_templates(__package__)
    templates.globals |= {"styles": STYLES, "markers": MARKERS}
    templates.filters |= {"percent": percent, "signed": signed, "of": of_group}
    templates.filters |= {"is_significant": is_significant, "p_text": p_text}
    return templates


def render_report(report: Report, *, page: Path | None = None, transcripts: int = TRANSCRIPTS) -> str:
    """The whole page as HTML.

    Args:
        report: what it shows.
        page: the file that it will be written to; None: a page without files next to it, which lacks the transcripts
            that it has no room for.
        transcripts: number of transcripts of each agent on the page.
    """
    held_out = HeldOutSection(report.metrics) if has_evaluations(report.metrics) else None
    evaluation = report.evaluation
    joined = Joined(evaluation, report.sources)
    template = load_page_templates().get_template("report.html")
    values = {
        **asdict(report.notes),
        "engines": engine_figures(evaluation),
        "episodes": episode_section(joined, page, transcripts=transcripts) if evaluation.cells else None,
        "tiles": _tiles(evaluation) or ([] if held_out is None else held_out.tiles()),
        "held_out": held_out,
        "curves": training_curves(report.metrics),
        "alarms": alarm_notes(report.metrics, report.rollbacks),
        "pairs": report.pairs,
        "config": report.config,
    }
    return template.render(**values, contents=_contents(values))


_SECTIONS = {
    "robustness": "Robustness",
    "kinds": "Kinds of noise",
    "outcomes": "Outcomes",
    "differences": "Differences",
    "behaviour": "Behaviour",
    "held-out": "Held-out questions",
    "training": "Training",
    "transcripts": "Transcripts",
    "episodes": "Episodes",
    "figures": "All figures",
    "repeat": "How to repeat it",
}
"""The page's sections in their order: anchor -> name in the contents."""


def _contents(values: Mapping[str, Any]) -> dict[str, str]:
    """The sections that the page has."""
    measured = bool(values["engines"])
    present = {
        **dict.fromkeys(("robustness", "outcomes", "episodes", "figures"), measured),
        "kinds": any(len(part.kinds.kinds) > 1 for part in values["engines"]),
        "differences": any(part.differences.pairs for part in values["engines"]),
        "behaviour": any(part.behaviour.known for part in values["engines"]),
        "held-out": values["held_out"] is not None,
        "training": bool(values["curves"] or values["alarms"]),
        "transcripts": bool(values["pairs"]),
        "repeat": bool(values["facts"] or values["stages"] or values["config"]),
    }
    return {id: name for id, name in _SECTIONS.items() if present[id]}


_FACTS = ("dataset", "split", "questions", "seed", "max_turns", "top_k")


def _facts(evaluation: Evaluation) -> dict[str, str]:
    """What is needed to repeat an evaluation, from its settings."""
    settings = evaluation.settings
    facts = {name.replace("_", " "): str(settings[name]) for name in _FACTS if settings.get(name) is not None}
    if isinstance(definition := settings.get("definition"), Mapping):
        facts["definition"] = f"{definition.get('name', '')} ({definition.get('hash', '')})"
    folders = settings.get("folders") or [settings]
    for number, entry in enumerate(folders, 1):
        label = f"command {number}" if len(folders) > 1 else "command"
        facts |= {label: str(entry["command"])} if entry.get("command") else {}
        versions = entry.get("versions") or {}
        name = label.replace("command", "versions")
        facts |= {name: ", ".join(f"{key} {value}" for key, value in versions.items())} if versions else {}
    return facts


def _tiles(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Up to four figures, each before and after training."""
    first, *others = evaluation.groups or ("",)
    shown = [(first, 0.0, "em"), (first, 0.5, "em"), *((other, 0.0, "em") for other in others[:1])]
    shown.append((first, 0.5, "searches"))
    tiles = []
    for group, level, metric in shown:
        cells = [evaluation.find(agent, level) for agent in ("before", "after")]
        means = [getattr(cell.summary(group or None), metric) for cell in cells if cell is not None]
        if len(means) < 2:
            continue
        before, after = means
        name, form, unit = ("Exact match", percent, " %") if metric == "em" else ("Searches per episode", _decimal, "")
        what = f"{name}, {group or 'all'} questions, {'no noise' if level == 0 else f'noise {level:g}'}"
        figures = {"before": before.mean, "after": after.mean, "low": after.low, "high": after.high}
        tiles.append({key: form(value) for key, value in figures.items()} | {"what": what, "unit": unit, "n": after.n})
    return tiles


def describe_run(metrics: Sequence[Mapping[str, float]]) -> str:
    """A sentence about the extent of a training run; "" if there was none."""
    steps = [record for record in metrics if "updates" in record]
    if not steps:
        return ""
    updates = sum(record["updates"] for record in steps)
    changed = "" if updates else ": the policy has not changed"
    seconds = sum(record.get("seconds", 0.0) + record.get("held_out_seconds", 0.0) for record in metrics)
    return f"{len(steps)} training steps with {updates:.0f} updates in {format_seconds(seconds)}{changed}."


def _decimal(value: float) -> str:
    return f"{value:.1f}"


def _read_metrics(path: Path) -> list[dict[str, float]]:
    from ..runs.metrics import read_metrics

    return read_metrics(path) if path.exists() else []


def _read_rollbacks(folder: Path) -> list[Rollback]:
    from ..runs.rollbacks import ROLLBACKS_FILE, read_rollbacks

    return read_rollbacks(folder) if (folder / ROLLBACKS_FILE).exists() else []
