"""The charts of the report as figures for papers: PDF, SVG or PNG files, drawn with matplotlib (extra `plots`)."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import ConfigError, require

from .charts import MARKERS, STYLES, Chart, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
_PX_PER_INCH = 90
_TWO_COLUMNS = 400.0
"""Width of a chart, in px, from which its legend has two columns."""
_LEGEND_ROW = 0.19
"""Height of a row of the legend in inches. A chart has room for two of them."""
_SETTINGS = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#eceef1",
    "savefig.dpi": 200,
    # Journals reject Type 3 fonts, matplotlib's default.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Otherwise two files of the same chart differ.
    "svg.hashsalt": "zerosearch",
}


def draw(charts: Sequence[Chart]) -> Figure:
    """Draw charts below each other, each with its title, and a legend at the bottom if there are several lines.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib")
    figure_class = require("matplotlib.figure").Figure
    with matplotlib.rc_context(_SETTINGS):
        width, height = charts[0].size
        size = (width / _PX_PER_INCH, len(charts) * height / _PX_PER_INCH)
        figure: Figure = figure_class(figsize=size, layout="constrained")
        lines: dict[str, Any] = {}
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            _draw_chart(axes, chart)
            handles, names = axes.get_legend_handles_labels()
            lines |= zip(names, handles, strict=True)
        if len(lines) > 1:
            columns = 2 if width >= _TWO_COLUMNS else 1
            rows = -(-len(lines) // columns)
            figure.set_size_inches(size[0], size[1] + _LEGEND_ROW * max(0, rows - 2))
            figure.legend(
                lines.values(), lines, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
            )
    return figure


def _draw_chart(axes: Any, chart: Chart) -> None:
    axes.set_title(textwrap.fill(chart.title, 50), loc="left", fontweight="bold", fontsize="medium")
    axes.set(
        xlabel=chart.x.label, ylabel=chart.unit, xlim=(chart.x.low, chart.x.high), ylim=(chart.y.low, chart.y.high)
    )
    axes.set_xticks(chart.x.ticks, [chart.x.form(tick) for tick in chart.x.ticks])
    axes.set_yticks(chart.y.ticks, [chart.y.form(tick) for tick in chart.y.ticks])
    axes.set_axisbelow(True)
    per_px = (chart.x.high - chart.x.low) / (chart.right - chart.left)
    for series in chart.series:
        _draw_series(axes, series, chart.shift(series) * per_px)


def _draw_series(axes: Any, series: Series, shift: float) -> None:
    style = STYLES[series.key]
    x, lows, highs = (
        zip(*((p.x + shift, p.low, p.high) for p in series.bounded), strict=True) if series.bounded else ((),) * 3
    )
    if series.band:
        axes.fill_between(x, lows, highs, color=style.light, alpha=0.13, linewidth=0)
    else:
        axes.vlines(x, lows, highs, style.light, lw=1, alpha=0.65)
    axes.plot(
        [point.x + shift for point in series.finite],
        [point.y for point in series.finite],
        color=style.light,
        linestyle="--" if series.dashed else "-",
        linewidth=0.8 if series.faint else 1.6,
        alpha=0.35 if series.faint else 1,
        marker=MARKERS[style.marker][1] if series.markers else "",
        markersize=4.5,
        label=None if series.faint else series.name,
        # An interval or a marker at the end of an axis is drawn whole.
        clip_on=False,
    )


def save(charts: Sequence[Chart], path: Path) -> None:
    """Write charts below each other into one file; its suffix is one of `FORMATS`.

    Raises:
        ConfigError: unknown suffix.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix[1:] not in FORMATS:
        raise ConfigError(f"{path}: expected a file name that ends with .{', .'.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(charts)
    with require("matplotlib").rc_context(_SETTINGS):
        # No date: two files of the same chart are equal.
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        figure.savefig(path, metadata=dates.get(path.suffix[1:]))


def save_each(charts: Sequence[Chart], folder: Path, form: str) -> list[Path]:
    """Write one file per chart, named after its title.

    Args:
        charts: the charts. Of titles that give the same name, all but the first get a number.
        folder: created if missing.
        form: one of `FORMATS`.

    Returns:
        The paths of the files.

    Raises:
        ConfigError: unknown format.
        MissingExtraError: matplotlib is not installed.
    """
    paths: list[Path] = []
    names: Counter[str] = Counter()
    for chart in charts:
        name = re.sub(r"[^a-z0-9]+", "-", chart.title.lower())
        names[name] += 1
        number = f"-{names[name]}" if names[name] > 1 else ""
        paths.append(folder / f"{name}{number}.{form}")
        save([chart], paths[-1])
    return paths
