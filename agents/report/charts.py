"""Charts as data: series, axes and styles. `templates/chart.html` draws them as SVG, `figures.py` with matplotlib.

An SVG chart has a fixed view box that scales to its container, so that text stays legible on a phone. Series differ in
colour *and* marker. Every point has a `<title>`, which browsers show as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LARGE = (440.0, 300.0)
SMALL = (340.0, 236.0)
"""Sizes of a chart in px. Text does not scale with the size, so narrow columns use the small chart."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 14.0, 46.0
_DODGE = 3.2
"""Horizontal offset in px between neighbouring series, so that their intervals do not hide each other."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a series looks."""

    marker: str
    """A key of `MARKERS`."""
    light: str
    """Colour on a light background."""
    dark: str
    """Colour on a dark background."""


STYLES: dict[str, Style] = {
    "after": Style("circle", "#0a5cad", "#62aef7"),
    "before": Style("square", "#6f7782", "#9aa3af"),
    "rag": Style("triangle", "#c2500a", "#f58b4b"),
    "rag-own": Style("down", "#9a6a00", "#dcae4a"),
    "direct": Style("diamond", "#0c7f5f", "#4cc9a2"),
    "random": Style("cross", "#a03a8c", "#dd8bcd"),
    "oracle": Style("none", "#1b1d21", "#e8eaed"),
    "ceiling": Style("none", "#8a919b", "#767e89"),
    "other1": Style("circle", "#5b4bb7", "#a99bf5"),
    "other2": Style("square", "#b3261e", "#ff8f85"),
    "other3": Style("triangle", "#4f7a12", "#a5cf5a"),
    "other4": Style("diamond", "#8a4a2a", "#d9a27f"),
}

# Markers of about 8 px: path data relative to the centre, and the name in matplotlib.
MARKERS: dict[str, tuple[str, str]] = {
    "circle": ("m-3.9 0a3.9 3.9 0 1 0 7.8 0a3.9 3.9 0 1 0-7.8 0z", "o"),
    "square": ("m-3.4-3.4h6.8v6.8h-6.8z", "s"),
    "cross": ("m-3.9-3.9l7.8 7.8m-7.8 0l7.8-7.8", "x"),
    "triangle": ("m0-4.6l4.4 8h-8.8z", "^"),
    "down": ("m0 4.6l4.4-8h-8.8z", "v"),
    "diamond": ("m0-4.9l4.5 4.9l-4.5 4.9l-4.5-4.9z", "D"),
    "none": ("", ""),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a series; `low` and `high` are the ends of its interval, if it has one."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    """Additional text in the tooltip."""

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Series:
    """A named line. Points that are not finite are left out."""

    name: str
    key: str
    """Colour and marker, see `STYLES`."""
    points: Sequence[Point]
    dashed: bool = False
    markers: bool = True
    faint: bool = False
    """Drawn thin and pale, for the raw values under a smoothed line."""
    band: bool = False
    """Draw the intervals as a band around the line instead of a bar at each point."""

    @property
    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [point for point in self.points if math.isfinite(point.y)]

    @property
    def bounded(self) -> list[Point]:
        """The points that can be drawn with an interval."""
        return [point for point in self.finite if point.has_interval]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its label with the unit, its range, its ticks and their format."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    form: Callable[[float], str] = str


@dataclass(frozen=True)
class Chart:
    """A line chart; later series are drawn on top. Lengths are in px of its view box."""

    title: str
    unit: str
    """What the vertical axis measures; written above it."""
    series: Sequence[Series]
    x: Axis
    y: Axis
    size: tuple[float, float] = LARGE

    @property
    def left(self) -> float:
        """Left end of the horizontal axis."""
        return _LEFT

    @property
    def right(self) -> float:
        """Right end of the horizontal axis."""
        return self.size[0] - _RIGHT

    def at_x(self, value: float, shift: float = 0.0) -> float:
        """Horizontal position of a value, moved by `shift`."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return round(_LEFT + share * (self.right - _LEFT) + shift, 1)

    def at_y(self, value: float) -> float:
        """Vertical position of a value."""
        height = self.size[1]
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return round(height - _BOTTOM - share * (height - _TOP - _BOTTOM), 1)

    def shift(self, series: Series) -> float:
        """Horizontal offset of a series whose points have bars."""
        shifted = [line for line in self.series if line.markers and line.bounded and not line.band]
        return (shifted.index(series) - (len(shifted) - 1) / 2) * _DODGE if series in shifted else 0.0


def percent(value: float) -> str:
    """`0.5` as `50`, and NaN as a dash; the unit is next to it."""
    return "\N{EN DASH}" if math.isnan(value) else f"{100 * value:.0f}"


def plain(value: float) -> str:
    """The shortest decimal with at most three digits after the point."""
    return f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def share_axis(label: str) -> Axis:
    """An axis from 0 to 100 %."""
    return Axis(label, 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), percent)


def fitted_axis(label: str, values: Sequence[float]) -> Axis:
    """An axis over 0 and `values` with four to six round ticks."""
    finite = [0.0, *(value for value in values if math.isfinite(value))]
    low, high = min(finite), max(finite)
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
