"""`report.html`: one self-contained page about a run, with learning curves, tables and transcripts.

    run directory (config.toml, metrics.jsonl, evaluation/, report.json) -> Report -> one HTML file

The page loads nothing and runs no script. Sections without data are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import DataError
from zerosearch_env.records.html import load_templates

from ..evaluation.results import Evaluation, load_evaluation
from ..runs.advice import format_seconds
from ..runs.output import EVALUATION_FOLDER, NOTES_FILE, REPORT_FILE, RESULTS_FILE, TRANSCRIPTS_FILE
from .charts import MARKERS, STYLES, Chart, percent
from .held_out import HeldOutSection, has_evaluations
from .robustness import Robustness, of_group, signed
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

    def charts(self) -> list[Chart]:
        """All charts: exact match and searches over the noise level and during training, then the training curves."""
        robustness = Robustness(self.evaluation).charts() if self.evaluation.cells else []
        held_out = HeldOutSection(self.metrics).charts() if has_evaluations(self.metrics) else []
        return robustness + held_out + training_curves(self.metrics)


def read_report(folder: str | os.PathLike[str]) -> Report:
    """Read the files of a run directory, or of the output folder of `zerosearch eval`.

    Raises:
        DataError: the folder does not exist, or a file in it is invalid.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the output folder of `zerosearch train` or `eval`")
    results = next((path for path in (folder / EVALUATION_FOLDER, folder) if (path / RESULTS_FILE).exists()), None)
    evaluation = Evaluation() if results is None else load_evaluation(results)
    config, notes = folder / "config.toml", folder / NOTES_FILE
    heading = f"{'Evaluation' if results == folder else 'Run'} {folder.resolve().name}"
    metrics = _read_metrics(folder / "metrics.jsonl")
    return Report(
        notes=Notes(**json.loads(notes.read_text("utf-8")))
        if notes.exists()
        else Notes(heading, describe_run(metrics)),
        evaluation=evaluation,
        metrics=metrics,
        rollbacks=_read_rollbacks(folder),
        pairs=choose_stages(folder / TRANSCRIPTS_FILE) if results is None else choose_pairs(evaluation, results),
        config=config.read_text("utf-8") if config.exists() else "",
    )


def write_report(folder: str | os.PathLike[str], notes: Notes | None = None) -> Path:
    """Write `report.html` into a run directory, from the files in it.

    Args:
        folder: the run directory, or the output folder of `zerosearch eval`.
        notes: stored in the folder for this page and later ones; None uses the stored ones, if any.

    Returns:
        The path of the page.

    Raises:
        DataError: the folder does not exist, or a file in it is invalid.
    """
    if notes is not None:
        (Path(folder) / NOTES_FILE).write_text(json.dumps(asdict(notes)), encoding="utf-8")
    path = Path(folder) / REPORT_FILE
    path.write_text(render_report(read_report(folder)), encoding="utf-8")
    return path


def load_page_templates() -> Environment:
    """The templates of the page, with what they need to draw charts and write figures."""
    templates = load_templates(__package__)
    templates.globals |= {"styles": STYLES, "markers": MARKERS}
    templates.filters |= {"percent": percent, "signed": signed, "of": of_group}
    return templates


def render_report(report: Report) -> str:
    """The whole page as HTML."""
    held_out = HeldOutSection(report.metrics) if has_evaluations(report.metrics) else None
    page = load_page_templates().get_template("report.html")
    return page.render(
        **asdict(report.notes),
        tiles=_tiles(report.evaluation) or ([] if held_out is None else held_out.tiles()),
        held_out=held_out,
        robustness=Robustness(report.evaluation) if report.evaluation.cells else None,
        curves=training_curves(report.metrics),
        alarms=alarm_notes(report.metrics, report.rollbacks),
        pairs=report.pairs,
        config=report.config,
    )


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
