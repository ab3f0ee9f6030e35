"""`report.html`: one self-contained page about a run, with its curves, tables and transcripts.

    run directory (config.toml, metrics.jsonl, evaluation/) -> ReportData -> one HTML file

The page loads nothing and runs no script: charts are inline SVG (`report_charts.py`), transcripts come from
`zerosearch_env.render_html`. Parts whose data are missing are left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from zerosearch_env.render_html import html_style, render_html
from zerosearch_env.transcripts import read_transcripts

from .evaluate import transcript_path
from .report_charts import (
    Axis,
    Point,
    Series,
    fitted_axis,
    line_chart,
    percent,
    plain,
    share_axis,
    smoothed,
    swatch,
)
from .results import RESULTS_FILE, Cell, Evaluation, load_evaluation
from .statistics import EMPTY, Interval

EVALUATION_FOLDER = "evaluation"
REPORT_FILE = "report.html"
_DASH = "&ndash;"


@dataclass(frozen=True, slots=True)
class Role:
    """How an agent of the evaluation appears in the report."""

    agent: str
    """Its name in the results."""
    label: str
    key: str
    """Colour and marker, see `report_charts.MARKERS`."""
    dashed: bool = False


ROLES: dict[str, Role] = {
    "before": Role("before", "before training", "before"),
    "after": Role("after", "after training", "after"),
    "rag": Role("rag", "one-search RAG, same model", "rag"),
    "rag-own": Role("rag-own", "one search with its own query, same model", "rag-own"),
    "direct": Role("direct", "direct answer, same model", "direct"),
    "random": Role("random", "random actions", "random"),
    "oracle": Role("oracle", "perfect reader that searches again (sees the answer)", "oracle", dashed=True),
}
"""Agents that the report knows by name; `baseline:` before a name makes no difference."""


@dataclass(frozen=True)
class Pair:
    """One question as it was played before and after training."""

    reason: str
    """Why it is shown."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows; empty parts are left out."""

    title: str
    evaluation: Evaluation = field(default_factory=Evaluation)
    metrics: Sequence[Mapping[str, float]] = ()
    """Records of `metrics.jsonl`."""
    pairs: Sequence[Pair] = ()
    stages: Sequence[tuple[str, float]] = ()
    """(what, wall seconds) of each stage."""
    config: str = ""
    """The run's configuration as TOML."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What a repetition needs to know: command, seed, versions, machine."""
    lead: str = ""
    """A paragraph under the title, plain text."""


def write_report(
    run: str | os.PathLike[str],
    *,
    title: str | None = None,
    lead: str = "",
    stages: Sequence[tuple[str, float]] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write `report.html` into a run directory from what lies there.

    Args:
        run: the run directory.
        title: heading of the page; None takes the directory's name.
        lead: a paragraph under it.
        stages: (what, wall seconds) of each stage.
        facts: what a repetition needs to know.

    Returns:
        The file's path.
    """
    folder = Path(run)
    evaluation_folder = folder / EVALUATION_FOLDER
    evaluation = load_evaluation(evaluation_folder) if (evaluation_folder / RESULTS_FILE).exists() else Evaluation()
    config, metrics = folder / "config.toml", folder / "metrics.jsonl"
    data = ReportData(
        title=title or f"Run {folder.name}",
        evaluation=evaluation,
        metrics=_read_metrics(metrics) if metrics.exists() else (),
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
    """The whole page."""
    sections = (
        _header(data),
        _noise_section(data.evaluation),
        _training_section(data.metrics),
        _transcripts_section(data.pairs),
        _reproduce_section(data),
    )
    template = resources.files(__package__).joinpath("templates/report.html").read_text(encoding="utf-8")
    style = html_style() if data.pairs else ""
    body = "\n".join(section for section in sections if section)
    return Template(template).substitute(title=escape(data.title), style=style, body=body)


# --------------------------------------------------------------------------------------------------------------------
# header


def _header(data: ReportData) -> str:
    lead = f'<p class="lead">{escape(data.lead)}</p>' if data.lead else ""
    return f"<header><h1>{escape(data.title)}</h1>{lead}{_tiles(data.evaluation)}</header>"


def _tiles(evaluation: Evaluation) -> str:
    """Before and after in four figures."""
    if not {"before", "after"} <= set(evaluation.agents):
        return ""
    wanted = [(group, level, "em") for group in evaluation.groups or ("",) for level in (0.0, 0.5)]
    wanted.append((evaluation.groups[0] if evaluation.groups else "", 0.5, "searches"))
    tiles = []
    for group, level, metric in wanted:
        before, after = evaluation.find("before", level), evaluation.find("after", level)
        if before is None or after is None:
            continue
        old, new = (getattr(cell.summary(group or None), metric) for cell in (before, after))
        noise = "no noise" if level == 0 else f"noise {level:g}"
        questions = f"{group} questions" if group else "all questions"
        if metric == "em":
            what, figures = f"Exact match, {questions}, {noise}", (_percent(old.mean), _percent(new.mean))
            interval, unit = f"{_percent(new.low)} to {_percent(new.high)} %", " %"
        else:
            what, figures = f"Searches per episode, {questions}, {noise}", (f"{old.mean:.1f}", f"{new.mean:.1f}")
            interval, unit = f"{new.low:.2f} to {new.high:.2f}", ""
        tiles.append(
            f'<div class="tile"><div class="what">{escape(what)}</div>'
            f'<div class="figure"><span class="from">{figures[0]} &rarr;</span> {figures[1]}{unit}</div>'
            f'<div class="range">95 % interval {interval}, n = {new.n}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


# --------------------------------------------------------------------------------------------------------------------
# robustness to noise


def roles_of(evaluation: Evaluation) -> list[Role]:
    """A role for each agent: its own where the report knows it, else one of four spare colours."""
    roles, spare = [], 0
    for agent in evaluation.agents:
        known = ROLES.get(agent.removeprefix("baseline:"))
        if known is None:
            spare += 1
            known = Role(agent, agent, f"other{(spare - 1) % 4 + 1}", dashed=spare > 4)
        roles.append(Role(agent, known.label, known.key, known.dashed))
    return roles


def _noise_section(evaluation: Evaluation) -> str:
    if not evaluation.cells:
        return ""
    engine = evaluation.engines[0]
    roles = [role for role in roles_of(evaluation) if _cells(evaluation, role.agent, engine)]
    groups: tuple[str | None, ...] = evaluation.groups or (None,)
    legend = [f"<li>{swatch(r.key, dashed=r.dashed)}{escape(r.label)}</li>" for r in roles]
    legend.append(
        f"<li>{swatch('ceiling', dashed=True)}perfect reading, no search repeated: (1 &minus; p)<sup>hops</sup></li>"
    )
    charts = [_em_chart(evaluation, engine, roles, group) for group in groups]
    searching = [r for r in roles if r.key not in ("direct", "rag", "rag-own", "random")]
    charts += [_search_chart(evaluation, engine, searching, group) for group in groups]
    return (
        "<section><h2>Robustness to retrieval noise</h2>"
        "<p>Noise p is the probability that a search returns documents which are on the topic and do not hold the "
        "answer. It is drawn anew for every search, so an agent that notices can search again. All agents meet the "
        "same questions and the same draws. Bars are 95 % intervals over questions.</p>"
        f'<ul class="legend">{"".join(legend)}</ul><div class="grid wide">{"".join(charts)}</div>'
        f"{_em_table(evaluation, engine, roles, groups)}{_other_engines(evaluation, roles)}</section>"
    )


def _cells(evaluation: Evaluation, agent: str, engine: str) -> list[Cell]:
    found = (evaluation.find(agent, level, engine) for level in evaluation.noise_levels)
    return [cell for cell in found if cell is not None]


_NOISE_LABEL = "noise p: share of searches that mislead, %"


def _noise_axis(evaluation: Evaluation) -> Axis:
    return Axis(_NOISE_LABEL, -0.04, 1.04, tuple(sorted({0.0, 1.0, *evaluation.noise_levels})), percent)


def _em_chart(evaluation: Evaluation, engine: str, roles: Sequence[Role], group: str | None) -> str:
    hops = int(group.removesuffix("-hop")) if group else 1
    ceiling = tuple(Point(i / 40, (1 - i / 40) ** hops) for i in range(41))
    series = [Series("perfect reading, no search repeated", "ceiling", ceiling, dashed=True, markers=False)]
    for role in roles:
        intervals = [(c.noise_level, c.summary(group).em) for c in _cells(evaluation, role.agent, engine)]
        points = tuple(Point(level, i.mean, i.low, i.high, f", n = {i.n}") for level, i in intervals)
        series.append(Series(role.label, role.key, points, dashed=role.dashed, markers=role.key != "oracle"))
    order = [s for s in series if s.key != "after"] + [s for s in series if s.key == "after"]
    title = _of(group, "Exact match")
    return _figure(title, "% of questions", line_chart(order, _noise_axis(evaluation), share_axis("%"), title=title))


def _search_chart(evaluation: Evaluation, engine: str, roles: Sequence[Role], group: str | None) -> str:
    series = []
    for role in roles:
        intervals = [(c.noise_level, c.summary(group).searches) for c in _cells(evaluation, role.agent, engine)]
        points = tuple(Point(level, i.mean, i.low, i.high) for level, i in intervals)
        series.append(Series(role.label, role.key, points, dashed=role.dashed, markers=role.key != "oracle"))
    highs = [p.high for s in series for p in s.points if p.high is not None]
    title = _of(group, "Searches per episode")
    y = fitted_axis("searches", highs or [1.0])
    return _figure(title, "searches, mean", line_chart(series, _noise_axis(evaluation), y, title=title))


def _of(group: str | None, what: str) -> str:
    return f"{what}, {group} questions" if group else what


def _figure(title: str, unit: str, svg: str) -> str:
    return f'<figure><h3>{escape(title)}</h3><div class="unit">{escape(unit)}</div>{svg}</figure>'


def _em_table(evaluation: Evaluation, engine: str, roles: Sequence[Role], groups: Sequence[str | None]) -> str:
    """Every figure of the charts with its interval, and the paired difference to RAG."""
    levels = evaluation.noise_levels
    head = "".join(f"<th>p = {level:g}</th>" for level in levels)
    body = []
    for group in groups:
        body.append(
            f'<tr class="section"><th>{escape(_of(group, "Exact match, %"))}</th>{"<th></th>" * len(levels)}</tr>'
        )
        for role in roles:
            cells = [evaluation.find(role.agent, level, engine) for level in levels]
            figures = "".join(f"<td>{_share_cell(c.summary(group).em if c else EMPTY)}</td>" for c in cells)
            strong = ' class="strong"' if role.key == "after" else ""
            body.append(f"<tr{strong}><td>{escape(role.label)}</td>{figures}</tr>")
        rag = next((r.agent for r in roles if r.key == "rag"), None)
        after = next((r.agent for r in roles if r.key == "after"), None)
        if rag and after:
            gaps = [evaluation.difference(after, rag, level, engine=engine, group=group) for level in levels]
            figures = "".join(f"<td>{_gap_cell(gap)}</td>" for gap in gaps)
            body.append(f"<tr><td>after training &minus; one-search RAG, points, paired</td>{figures}</tr>")
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th>{escape(engine)} engine</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">Small figures: 95 % intervals (Wilson for exact match, paired bootstrap for differences).</p>'
    )


def _other_engines(evaluation: Evaluation, roles: Sequence[Role]) -> str:
    """EM on every further engine."""
    groups: tuple[str | None, ...] = evaluation.groups or (None,)
    labels = {role.agent: role.label for role in roles_of(evaluation)}
    rows = []
    for cell in evaluation.cells:
        if cell.engine == evaluation.engines[0]:
            continue
        figures = "".join(f"<td>{_share_cell(cell.summary(group).em)}</td>" for group in groups)
        rows.append(
            f"<tr><td>{escape(labels[cell.agent])}</td><td>{escape(cell.engine)}</td><td>{cell.noise_level:g}</td>{figures}</tr>"
        )
    if not rows:
        return ""
    head = "".join(f"<th>{escape(_of(group, 'exact match, %'))}</th>" for group in groups)
    return (
        "<h3>Other search engines at test time</h3>"
        '<div class="scroll" tabindex="0"><table><thead><tr><th>agent</th><th>engine</th><th>noise p</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _share_cell(interval: Interval) -> str:
    if math.isnan(interval.mean):
        return _DASH
    return f"{100 * interval.mean:.1f}<small>{_percent(interval.low)}{_DASH}{_percent(interval.high)}</small>"


def _gap_cell(gap: Interval) -> str:
    if math.isnan(gap.mean):
        return _DASH
    kind = "" if not gap.excludes_zero else ' class="right"' if gap.mean > 0 else ' class="wrong"'
    return f"<span{kind}>{_signed(gap.mean, 1)}</span><small>{_signed(gap.low)} to {_signed(gap.high)}</small>"


def _signed(value: float, digits: int = 0) -> str:
    return f"{100 * value:+.{digits}f}".replace("-", "&minus;")


def _percent(value: float) -> str:
    return _DASH if math.isnan(value) else f"{100 * value:.0f}"


# --------------------------------------------------------------------------------------------------------------------
# learning curves

_CURVES: tuple[tuple[str, str, str, str], ...] = (
    ("reward", "Reward", "mean over sampled episodes", "after"),
    ("em", "Exact match in training", "% of sampled episodes", "after"),
    ("searches", "Searches per episode", "searches, mean", "rag"),
    ("search_again", "Searched again after misleading documents", "% of such searches", "rag"),
    ("noise_level", "Noise level p of the curriculum", "% of searches", "other3"),
    ("invalid_rate", "Turns without a valid action", "% of turns", "random"),
)
_SHARES = frozenset({"em", "search_again", "noise_level", "invalid_rate"})
_EXACT = frozenset({"noise_level"})
"""Set, not measured: drawn as it is."""


def _training_section(metrics: Sequence[Mapping[str, float]]) -> str:
    if not metrics:
        return ""
    charts = "".join(_curve(metrics, *curve) for curve in _CURVES)
    return (
        "<section><h2>Training</h2><p>Measured on the episodes that training itself sampled: training questions, "
        "temperature 1, the noise of the moment. Pale: every step. Strong: moving average.</p>"
        f'<div class="grid">{charts}</div></section>'
    )


def _curve(metrics: Sequence[Mapping[str, float]], name: str, title: str, unit: str, key: str) -> str:
    records = [(record["step"], record[name]) for record in metrics if name in record and "step" in record]
    if not records:
        return ""
    steps, values = [r[0] for r in records], [r[1] for r in records]
    raw = tuple(map(Point, steps, values))
    window = 1 if name in _EXACT else max(1, len(values) // 8 * 2 + 1)
    smooth = tuple(map(Point, steps, smoothed(values, window)))
    series = [Series(title, key, smooth, markers=False)]
    if window > 1:
        series.insert(0, Series(title, key, raw, markers=False, faint=True))
    x = fitted_axis("training step", [0.0, max(steps)])
    form = percent if name in _SHARES else plain
    fitted = share_axis(unit) if name in ("em", "search_again") else fitted_axis(unit, values)
    y = Axis(unit, fitted.low, fitted.high, fitted.ticks, form)
    return _figure(title, unit, line_chart(series, x, y, title=f"{title} over training steps"))


def _read_metrics(path: Path) -> list[dict[str, float]]:
    from .metrics import read_metrics

    return read_metrics(path)


# --------------------------------------------------------------------------------------------------------------------
# transcripts


def choose_pairs(evaluation: Evaluation, folder: Path) -> list[Pair]:
    """A few questions that show what was learnt, and one that still fails; the first of each kind by dataset order.

    Args:
        evaluation: with the agents `before` and `after`.
        folder: the evaluation's output folder, which holds the transcripts.
    """
    pairs: list[Pair] = []
    shown: set[Any] = set()
    for level, reason, wanted in _KINDS:
        cells = evaluation.find("before", level), evaluation.find("after", level)
        if None in cells:
            continue
        files = [transcript_path(folder, cell.key) for cell in cells if cell is not None]
        if not all(file.exists() for file in files):
            continue
        before, after = ({r["extra"].get("index"): r for r in read_transcripts(file)} for file in files)
        index = _first(
            index for index in sorted(before.keys() & after.keys() - shown) if wanted(before[index], after[index])
        )
        if index is not None:
            shown.add(index)
            pairs.append(Pair(reason, before[index], after[index]))
    return pairs


def _first(indices: Iterable[int]) -> int | None:
    return next(iter(indices), None)


def _right(record: Mapping[str, Any]) -> bool:
    return bool(record["scores"]["em"] == 1.0)


def _misled_first(record: Mapping[str, Any]) -> bool:
    """The first search was misleading, and another one followed."""
    searches = [turn for turn in record["turns"] if turn["documents"]]
    return len(searches) > 1 and searches[0]["noisy"] is True


def _hops(record: Mapping[str, Any]) -> Any:
    return record["extra"].get("hops")


_KINDS = (
    (
        0.5,
        "The documents of the first search mislead; after training the agent searches again.",
        lambda old, new: _hops(new) == 1 and _right(new) and not _right(old) and _misled_first(new),
    ),
    (
        0.0,
        "Two facts are needed; after training the agent asks for one, then for the other.",
        lambda old, new: _hops(new) == 2 and _right(new) and not _right(old) and new["scores"]["searches"] > 1,
    ),
    (0.0, "A question that only training made answerable.", lambda old, new: _right(new) and not _right(old)),
    (0.5, "A question that it still gets wrong.", lambda old, new: not _right(new)),
)


def _transcripts_section(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    parts = [
        "<section><h2>Transcripts, before and after</h2><p>The same question with the same draws of noise, played by "
        "the model before and after training. Noisy documents are marked; the agent is not told.</p>"
    ]
    for pair in pairs:
        columns = "".join(
            f"<div><h3>{label}</h3>{render_html(record, style=False)}</div>"
            for label, record in (("Before training", pair.before), ("After training", pair.after))
        )
        parts.append(f'<div class="example"><p>{escape(pair.reason)}</p><div class="pair">{columns}</div></div>')
    return "".join(parts) + "</section>"


# --------------------------------------------------------------------------------------------------------------------
# how to repeat it


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
