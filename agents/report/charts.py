"""Small line charts as inline SVG, in plain Python: no plotting library, no script, colours from the page's CSS.

A chart is one `<svg>` with a fixed view box that scales to its container, so that text stays legible on a phone.
Series differ in colour *and* marker. Colours are the CSS variables `--s-<key>` of the page, which defines a light and
a dark value for each. Every point has a `<title>`, which browsers show as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

LARGE = (440.0, 300.0)
SMALL = (340.0, 236.0)
"""Sizes of a chart in px. Text does not scale with the size, so narrow columns use the small chart."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 14.0, 46.0
_DODGE = 3.2
"""Horizontal offset in px between neighbouring series, so that their intervals do not hide each other."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a series; `low` and `high` are the ends of its interval, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Additional text in the tooltip."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line. `key` picks colour and marker (see `MARKERS`)."""

    name: str
    key: str
    points: tuple[Point, ...]
    dashed: bool = False
    markers: bool = True
    faint: bool = False
    """Drawn thin and pale, for the raw values under a smoothed line."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its label with the unit, its range, its ticks and their format."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    form: Callable[[float], str] = str


MARKERS: dict[str, str] = {
    "after": "circle",
    "before": "square",
    "rag": "triangle",
    "rag-own": "down",
    "direct": "diamond",
    "random": "cross",
    "oracle": "none",
    "ceiling": "none",
    "other1": "circle",
    "other2": "square",
    "other3": "triangle",
    "other4": "diamond",
}


def percent(value: float) -> str:
    """`0.5` as `50`; the unit is in the axis label."""
    return f"{100 * value:.0f}"


def plain(value: float) -> str:
    """The shortest decimal with at most three digits after the point."""
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def share_axis(label: str) -> Axis:
    """An axis from 0 to 100 %."""
    return Axis(label, 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), percent)


def fitted_axis(label: str, values: Sequence[float], *, start_at_zero: bool = True) -> Axis:
    """An axis over `values` with four to six round ticks."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if start_at_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        high = low + 1.0
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Axis(label, ticks[0], ticks[-1], ticks, plain)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average; the window narrows at both ends. Non-finite values are ignored."""
    half, result = max(window, 1) // 2, []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        near = [v for v in values[i - reach : i + reach + 1] if math.isfinite(v)]
        result.append(sum(near) / len(near) if near else math.nan)
    return result


def line_chart(series: Sequence[Series], x: Axis, y: Axis, *, title: str, size: tuple[float, float] = LARGE) -> str:
    """A line chart.

    Args:
        series: the lines; later ones are drawn on top.
        x: horizontal axis; its label is below it.
        y: vertical axis; its label is above it, written horizontally.
        title: for screen readers; the page has its own visible heading.
        size: width and height of the view box, `LARGE` or `SMALL`.

    Returns:
        One `<svg>` element.
    """
    width, height = size

    def px(value: float) -> float:
        return _LEFT + (value - x.low) / (x.high - x.low) * (width - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return height - _BOTTOM - (value - y.low) / (y.high - y.low) * (height - _TOP - _BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">',
        *(
            f'<line class="gridline" x1="{_LEFT:.1f}" x2="{width - _RIGHT:.1f}" y1="{py(t):.1f}" y2="{py(t):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 7:.1f}" y="{py(t) + 4:.1f}" text-anchor="end">{escape(y.form(t))}</text>'
            for t in y.ticks
        ),
        *(
            f'<line class="tickmark" x1="{px(t):.1f}" x2="{px(t):.1f}" y1="{py(y.low):.1f}" y2="{py(y.low) + 4:.1f}"/>'
            f'<text class="tick" x="{px(t):.1f}" y="{py(y.low) + 18:.1f}" text-anchor="middle">{escape(x.form(t))}'
            "</text>"
            for t in x.ticks
        ),
        f'<text class="axis" x="{(width + _LEFT - _RIGHT) / 2:.1f}" y="{height - 8:.1f}" text-anchor="middle">'
        f"{escape(x.label)}</text>",
    ]
    dodged = [s for s in series if s.markers and any(p.low is not None for p in s.points)]
    for one in series:
        shift = (dodged.index(one) - (len(dodged) - 1) / 2) * _DODGE if one in dodged else 0.0
        parts.append(_draw(one, px, py, shift, x, y))
    return "".join(parts) + "</svg>"


def swatch(key: str, *, dashed: bool = False) -> str:
    """The line and marker of a series as a small `<svg>` for a legend."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true" style="--c:var(--s-{key})">'
        f'<line class="line" x1="1" x2="27" y1="7" y2="7"{dash}/>{_marker(MARKERS.get(key, "circle"), 14, 7)}</svg>'
    )


def figure(title: str, unit: str, svg: str) -> str:
    """A chart with its heading and the unit of its vertical axis."""
    return f'<figure><h3>{escape(title)}</h3><div class="unit">{escape(unit)}</div>{svg}</figure>'


def _draw(
    series: Series, px: Callable[[float], float], py: Callable[[float], float], shift: float, x: Axis, y: Axis
) -> str:
    """One series: whiskers under the line, markers on top."""
    points = [p for p in series.points if math.isfinite(p.y)]
    if not points:
        return ""
    path = "".join(f"{'M' if i == 0 else 'L'}{px(p.x) + shift:.1f} {py(p.y):.1f}" for i, p in enumerate(points))
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    kind = "line faint" if series.faint else "line"
    parts = [f'<g style="--c:var(--s-{series.key})">']
    for p in points:
        if p.low is not None and p.high is not None and math.isfinite(p.low) and math.isfinite(p.high):
            at, low, high = px(p.x) + shift, py(p.low), py(p.high)
            parts.append(f'<path class="whisker" d="M{at:.1f} {low:.1f}V{high:.1f}"/>')
    parts.append(f'<path class="{kind}" d="{path}"{dash}/>')
    if series.markers:
        for p in points:
            between = f" ({y.form(p.low)} to {y.form(p.high)})" if p.low is not None and p.high is not None else ""
            label = f"{series.name}, {x.label} {x.form(p.x)}: {y.form(p.y)}{between}{p.note}"
            shape = _marker(MARKERS.get(series.key, "circle"), px(p.x) + shift, py(p.y))
            parts.append(f"<g><title>{escape(label)}</title>{shape}</g>")
    return "".join(parts) + "</g>"


def _marker(shape: str, x: float, y: float) -> str:
    """A marker of about 8 px around (x, y)."""
    r = 3.9
    if shape == "circle":
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    if shape == "square":
        return f'<rect class="dot" x="{x - 3.4:.1f}" y="{y - 3.4:.1f}" width="6.8" height="6.8"/>'
    if shape == "cross":
        d = f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}"
        return f'<path class="stroke" d="{d}"/>'
    offsets = {
        "triangle": ((0, -4.6), (4.4, 3.4), (-4.4, 3.4)),
        "down": ((0, 4.6), (4.4, -3.4), (-4.4, -3.4)),
        "diamond": ((0, -4.9), (4.5, 0), (0, 4.9), (-4.5, 0)),
    }.get(shape)
    if offsets is None:
        return ""
    d = "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in offsets) + "Z"
    return f'<path class="dot" d="{d}"/>'
