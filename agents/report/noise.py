"""The report's section on robustness: charts of EM and searches over the noise level, and a table of all figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..evaluation.results import Cell, Evaluation
from ..evaluation.statistics import EMPTY, Interval
from .charts import Axis, Point, Series, figure, fitted_axis, line_chart, percent, share_axis, swatch

_DASH = "&ndash;"


@dataclass(frozen=True, slots=True)
class Role:
    """How an agent of the evaluation appears in the report."""

    agent: str
    """Its name in the results."""
    label: str
    key: str
    """Colour and marker, see `charts.MARKERS`."""
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
"""Agents that the report knows by name; a prefix `baseline:` is ignored."""


def roles_of(evaluation: Evaluation) -> list[Role]:
    """One role per agent: its entry in `ROLES`, or one of four spare colours."""
    roles, spare = [], 0
    for agent in evaluation.agents:
        known = ROLES.get(agent.removeprefix("baseline:"))
        if known is None:
            spare += 1
            known = Role(agent, agent, f"other{(spare - 1) % 4 + 1}", dashed=spare > 4)
        roles.append(Role(agent, known.label, known.key, known.dashed))
    return roles


def noise_section(evaluation: Evaluation) -> str:
    """Charts of EM and searches over the noise level, and a table of their figures; empty without results."""
    if not evaluation.cells:
        return ""
    engine = evaluation.engines[0]
    roles = [role for role in roles_of(evaluation) if _cells(evaluation, role.agent, engine)]
    groups: tuple[str | None, ...] = evaluation.groups or (None,)
    legend = [f"<li>{swatch(r.key, dashed=r.dashed)}<span>{escape(r.label)}</span></li>" for r in roles]
    legend.append(
        f"<li>{swatch('ceiling', dashed=True)}<span>perfect reading, no search "
        "repeated: (1 &minus; p)<sup>hops</sup></span></li>"
    )
    charts = [_em_chart(evaluation, engine, roles, group) for group in groups]
    searching = [r for r in roles if r.key not in ("direct", "rag", "rag-own", "random")]
    charts += [_search_chart(evaluation, engine, searching, group) for group in groups]
    return (
        "<section><h2>Robustness to retrieval noise</h2>"
        "<p>Noise p is the probability that a search returns documents that are on the topic but do not contain the "
        "answer. It is drawn independently for every search, so an agent that notices can search again. All agents "
        "get the same questions and the same draws. Bars are 95 % intervals over questions.</p>"
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
    digits = (group or "").removesuffix("-hop")
    hops = int(digits) if digits.isdigit() else 1
    ceiling = tuple(Point(i / 40, (1 - i / 40) ** hops) for i in range(41))
    series = [Series("perfect reading, no search repeated", "ceiling", ceiling, dashed=True, markers=False)]
    for role in roles:
        intervals = [(c.noise_level, c.summary(group).em) for c in _cells(evaluation, role.agent, engine)]
        points = tuple(Point(level, i.mean, i.low, i.high, f", n = {i.n}") for level, i in intervals)
        series.append(Series(role.label, role.key, points, dashed=role.dashed, markers=role.key != "oracle"))
    order = [s for s in series if s.key != "after"] + [s for s in series if s.key == "after"]
    title = _of(group, "Exact match")
    return figure(title, "% of questions", line_chart(order, _noise_axis(evaluation), share_axis("%"), title=title))


def _search_chart(evaluation: Evaluation, engine: str, roles: Sequence[Role], group: str | None) -> str:
    series = []
    for role in roles:
        intervals = [(c.noise_level, c.summary(group).searches) for c in _cells(evaluation, role.agent, engine)]
        points = tuple(Point(level, i.mean, i.low, i.high) for level, i in intervals)
        series.append(Series(role.label, role.key, points, dashed=role.dashed, markers=role.key != "oracle"))
    highs = [p.high for s in series for p in s.points if p.high is not None]
    title = _of(group, "Searches per episode")
    y = fitted_axis("searches", highs or [1.0])
    return figure(title, "searches, mean", line_chart(series, _noise_axis(evaluation), y, title=title))


def _of(group: str | None, what: str) -> str:
    return f"{what}, {group} questions" if group else what


def _em_table(evaluation: Evaluation, engine: str, roles: Sequence[Role], groups: Sequence[str | None]) -> str:
    """Every figure of the charts with its interval, and the paired difference to RAG."""
    levels = evaluation.noise_levels
    head = "".join(f"<th>p = {level:g}</th>" for level in levels)
    body = []
    for group in groups:
        body.append(
            f'<tr class="section"><th colspan="{1 + len(levels)}">{escape(_of(group, "Exact match, %"))}</th></tr>'
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
    return f"{100 * interval.mean:.1f}<small>{whole_percent(interval.low)}{_DASH}{whole_percent(interval.high)}</small>"


def _gap_cell(gap: Interval) -> str:
    if math.isnan(gap.mean):
        return _DASH
    kind = "" if not gap.excludes_zero else ' class="right"' if gap.mean > 0 else ' class="wrong"'
    return f"<span{kind}>{_signed(gap.mean, 1)}</span><small>{_signed(gap.low)} to {_signed(gap.high)}</small>"


def _signed(value: float, digits: int = 0) -> str:
    return f"{100 * value:+.{digits}f}".replace("-", "&minus;")


def whole_percent(value: float) -> str:
    """`0.456` as `46`; a dash for NaN. HTML."""
    return _DASH if math.isnan(value) else f"{100 * value:.0f}"
