"""`report.html`: one self-contained page about a run, with learning curves, tables and transcripts.

    run directory (config.toml, metrics.jsonl, evaluation/) -> ReportData -> one HTML file

The page loads nothing and runs no script: charts are inline SVG (`charts.py`), transcripts come from
`zerosearch_env.records.html`. Sections without data are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from zerosearch_env.records.html import html_style

from ..evaluation.results import RESULTS_FILE, Evaluation, load_evaluation
from .noise import noise_section, whole_percent
from .training import Pair, choose_pairs, training_section, transcripts_section

if TYPE_CHECKING:
    from ..runs.rollbacks import Rollback

EVALUATION_FOLDER = "evaluation"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class ReportData:
    """All data that the page shows; empty sections are left out."""

    title: str
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Sequence[Mapping[str, float]] = ()
    """Records of `metrics.jsonl`."""
    rollbacks: Sequence[Rollback] = ()
    pairs: Sequence[Pair] = ()
    stages: Sequence[tuple[str, float]] = ()
    """(name, wall-clock seconds) of each stage."""
    config: str = ""
    """The run's configuration as TOML."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """The information needed to repeat the run: command, seed, versions, machine."""
    lead: str = ""
    """A paragraph under the title, in plain text."""


def write_report(
    run: str | os.PathLike[str],
    *,
    title: str | None = None,
    lead: str = "",
    stages: Sequence[tuple[str, float]] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write `report.html` into a run directory, from the files in it.

    Args:
        run: the run directory.
        title: heading of the page; None uses the directory's name.
        lead: a paragraph under the heading.
        stages: (name, wall-clock seconds) of each stage.
        facts: the information needed to repeat the run.

    Returns:
        The path of the file.
    """
    folder = Path(run)
    evaluation_folder = folder / EVALUATION_FOLDER
    evaluation = load_evaluation(evaluation_folder) if (evaluation_folder / RESULTS_FILE).exists() else Evaluation()
    config, metrics = folder / "config.toml", folder / "metrics.jsonl"
    data = ReportData(
        title=title or f"Run {folder.name}",
        evaluation=evaluation,
        metrics=_read_metrics(metrics) if metrics.exists() else (),
        rollbacks=_read_rollbacks(folder),
        pairs=choose_pairs(evaluation, evaluation_folder),
        stages=stages,
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        facts=facts or {},
        lead=lead,
    )
    path = folder / REPORT_FILE
    path.write_text(render_report(data), encoding="utf-8")
    return path


def render_report(data: ReportData) -> str:
    """The whole page as HTML."""
    sections = (
        _header(data),
        noise_section(data.evaluation),
        training_section(data.metrics, data.rollbacks),
        transcripts_section(data.pairs),
        _reproduce_section(data),
    )
    template = resources.files(__package__).joinpath("templates/report.html").read_text(encoding="utf-8")
    style = html_style() if data.pairs else ""
    body = "\n".join(section for section in sections if section)
    return Template(template).substitute(title=escape(data.title), style=style, body=body)


def _header(data: ReportData) -> str:
    lead = f'<p class="lead">{escape(data.lead)}</p>' if data.lead else ""
    return f"<header><h1>{escape(data.title)}</h1>{lead}{_tiles(data.evaluation)}</header>"


def _tiles(evaluation: Evaluation) -> str:
    """Up to four figures, each before and after training."""
    if not {"before", "after"} <= set(evaluation.agents):
        return ""
    first, *others = evaluation.groups or ("",)
    wanted = [(first, 0.0, "em"), (first, 0.5, "em"), *((other, 0.0, "em") for other in others[:1])]
    wanted.append((first, 0.5, "searches"))
    tiles = []
    for group, level, metric in wanted:
        before, after = evaluation.find("before", level), evaluation.find("after", level)
        if before is None or after is None:
            continue
        old, new = (getattr(cell.summary(group or None), metric) for cell in (before, after))
        noise = "no noise" if level == 0 else f"noise {level:g}"
        questions = f"{group} questions" if group else "all questions"
        if metric == "em":
            what, figures = f"Exact match, {questions}, {noise}", (whole_percent(old.mean), whole_percent(new.mean))
            interval, unit = f"{whole_percent(new.low)}&ndash;{whole_percent(new.high)} %", " %"
        else:
            what, figures = f"Searches per episode, {questions}, {noise}", (f"{old.mean:.1f}", f"{new.mean:.1f}")
            interval, unit = f"{new.low:.1f}&ndash;{new.high:.1f}", ""
        tiles.append(
            f'<div class="tile"><div class="what">{escape(what)}</div>'
            f'<div class="figure"><span class="from">{figures[0]} &rarr;</span> {figures[1]}{unit}</div>'
            f'<div class="range">95 % CI {interval}, n = {new.n}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _reproduce_section(data: ReportData) -> str:
    if not (data.facts or data.stages or data.config):
        return ""
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{f'<code>{escape(value)}</code>' if name == 'command' else escape(value)}</dd>"
        for name, value in data.facts.items()
    )
    stages = ""
    if data.stages:
        rows = "".join(f"<tr><td>{escape(what)}</td><td>{seconds:.1f}</td></tr>" for what, seconds in data.stages)
        total = sum(seconds for _, seconds in data.stages)
        stages = (
            '<div class="scroll narrow"><table><thead><tr><th>stage</th><th>wall time, s</th></tr></thead>'
            f'<tbody>{rows}<tr class="strong"><td>all</td><td>{total:.1f}</td></tr></tbody></table></div>'
        )
    config = (
        f"<details><summary>Configuration</summary><pre>{escape(data.config)}</pre></details>" if data.config else ""
    )
    return f"<section><h2>How to repeat it</h2><dl>{facts}</dl>{stages}{config}</section>"


def _read_rollbacks(folder: Path) -> list[Rollback]:
    from ..runs.rollbacks import read_rollbacks

    return read_rollbacks(folder)


def _read_metrics(path: Path) -> list[dict[str, float]]:
    from ..runs.metrics import read_metrics

    return read_metrics(path)
