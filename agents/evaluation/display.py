"""Output of an evaluation on the terminal: a progress bar, one line per finished cell, and tables at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from zerosearch_env.privacy import redact
from zerosearch_env.progress import ProgressBar

from .results import Cell, Evaluation
from .statistics import Interval

if TYPE_CHECKING:
    from .evaluate import CellProgress


def percent(interval: Interval) -> str:
    """`81.3 [76.5, 85.3]`: a share with its 95 % interval, in percent."""
    if math.isnan(interval.mean):
        return "-"
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def figure(interval: Interval, *, narrow: bool, sign: str = "") -> str:
    """A share with its interval in percent, on one or two lines.

    Args:
        interval: the share, or a difference of two.
        narrow: `81.3` over `77 to 85` instead of `81.3 [76.5, 85.3]`.
        sign: `"+"` writes a plus sign before positive figures.
    """
    if math.isnan(interval.mean):
        return "-"
    mean, low, high = 100 * interval.mean, 100 * interval.low, 100 * interval.high
    if narrow:
        return f"{mean:{sign}.1f}\n{low:{sign}.0f} to {high:{sign}.0f}"
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def share(value: float) -> str:
    """`12.5` for an eighth, or `-` for NaN."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def titles(group: str | None) -> str:
    """Name of a group of questions in headings."""
    return f"{group} questions" if group else "all questions"


def em_rows(
    evaluation: Evaluation, group: str | None, engine: str, metric: str = "em", data_source: str | None = None
) -> list[list[str]]:
    """One row per agent: its name, then the metric at every noise level."""
    rows = []
    for agent in evaluation.agents:
        cells = [evaluation.find(agent, level, engine) for level in evaluation.noise_levels]
        if any(cells):
            figures = [percent(getattr(c.summary(group, data_source), metric)) if c else "" for c in cells]
            rows.append([agent + ("" if all(c is None or c.complete for c in cells) else " (incomplete)"), *figures])
    return rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def evaluation_markdown(evaluation: Evaluation) -> str:
    """Every EM table of an evaluation as Markdown, one per engine and group of questions or data set."""
    parts = []
    levels = [f"noise {level:g}" for level in evaluation.noise_levels]
    for engine in evaluation.engines:
        for group in evaluation.groups or (None,):
            rows = em_rows(evaluation, group, engine)
            parts.append(markdown_table([f"EM %, {titles(group)}, {engine}", *levels], rows))
        for name in evaluation.data_sources:
            rows = em_rows(evaluation, None, engine, data_source=name)
            parts.append(markdown_table([f"EM %, data source {name}, {engine}", *levels], rows))
    return "\n".join(parts)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print EM at every noise level for every group of questions, then the table of the agents' behaviour."""
    for engine in evaluation.engines:
        for group in evaluation.groups or (None,):
            console.print(em_table(evaluation, group, engine, width=console.width))
        if evaluation.data_sources:
            console.print(_data_sources(evaluation, engine, console.width))
        if differences := _differences(evaluation, engine, console.width):
            console.print(differences)
    console.print(_behaviour(evaluation))


def em_table(evaluation: Evaluation, group: str | None, engine: str, *, width: int = 80) -> Group:
    """EM of every agent at every noise level.

    Args:
        evaluation: the results.
        group: `"1-hop"`, ...; None takes all questions.
        engine: the engine's name.
        width: width of the terminal in characters.
    """
    cells = [c for c in evaluation.cells if c.engine == engine and (group is None or group in c.groups)]
    levels = sorted({cell.noise_level for cell in cells})
    where = f", {engine}" if len(evaluation.engines) > 1 else ""
    counts = _span({cell.summary(group).em.n for cell in cells})
    agents = dict.fromkeys(cell.agent for cell in cells)
    narrow = _narrow(agents, levels, width)
    table = _level_table(levels)
    for agent in agents:
        agent_cells = [evaluation.find(agent, level, engine) for level in levels]
        mark = "" if all(cell is None or cell.complete for cell in agent_cells) else "\n(incomplete)"
        table.add_row(
            agent + mark, *("" if c is None else figure(c.summary(group).em, narrow=narrow) for c in agent_cells)
        )
    return _titled(f"EM in %, {titles(group)}{where} (95 % interval; {counts})", table)


def _data_sources(evaluation: Evaluation, engine: str, width: int) -> Group:
    """EM of every agent at every noise level, for each data set."""
    levels = evaluation.noise_levels
    narrow = _narrow(
        [f"{agent} {name}" for agent in evaluation.agents for name in evaluation.data_sources], levels, width
    )
    table = _level_table(levels, "data source", "agent")
    for name in evaluation.data_sources:
        for agent in evaluation.agents:
            cells = [evaluation.find(agent, level, engine) for level in levels]
            means = [None if cell is None else cell.summary(data_source=name).em for cell in cells]
            table.add_row(name, agent, *("" if mean is None else figure(mean, narrow=narrow) for mean in means))
        table.add_section()
    where = f", {engine}" if len(evaluation.engines) > 1 else ""
    return _titled(f"EM in %, by data source{where} (95 % interval)", table)


def _differences(evaluation: Evaluation, engine: str, width: int) -> Group | None:
    """The first agent's EM minus each other agent's, on the same questions."""
    if len(evaluation.agents) < 2:
        return None
    first, *others = evaluation.agents
    levels = evaluation.noise_levels
    narrow = _narrow(others, levels, width)
    table = _level_table(levels)
    for other in others:
        gaps = (evaluation.difference(first, other, level, engine=engine) for level in levels)
        table.add_row(other, *(figure(gap, narrow=narrow, sign="+") for gap in gaps))
    return _titled(f"EM of {first} minus EM of ..., in points, paired, {engine}", table)


def _titled(title: str, table: Table) -> Group:
    """A table under its title, which rich itself would wrap at the width of the table."""
    return Group(Text(title, style="italic"), table)


def _level_table(levels: Sequence[float], *names: str) -> Table:
    """An empty table with columns of names (None given: the agent's), then one column per noise level."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in names or ("agent",):
        table.add_column(name, overflow="fold")
    for level in levels:
        table.add_column(f"noise {level:g}", justify="right", no_wrap=True)
    return table


def _narrow(agents: Iterable[str], levels: Sequence[float], width: int) -> bool:
    """Whether the figures must be split over two lines to fit."""
    return max(map(len, agents), default=0) + 3 + len(levels) * (len("+10.0 [+10.0, +10.0]") + 2) > width


def _span(counts: set[int]) -> str:
    """The number of questions that the figures of a table are computed from."""
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{high} questions" if low == high else f"{low} to {high} questions"


def _behaviour(evaluation: Evaluation) -> Group:
    """One line per cell: scores, searches, invalid turns, realised noise, answers, failed episodes.

    The scores for any script have columns where they differ from SQuAD's; results.json always has them.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    several = len(evaluation.engines) > 1
    failures = any(len(cell.finished) < len(cell.episodes) for cell in evaluation.cells)
    unicode = any((s.em_unicode, s.f1_unicode) != (s.em, s.f1) for s in (cell.summary() for cell in evaluation.cells))
    for name in ("agent", *(("engine",) if several else ())):
        table.add_column(name, overflow="fold")
    for name in (
        "noise",
        "F1",
        "subEM",
        *(("EM*", "F1*") if unicode else ()),
        "searches",
        "invalid",
        "noisy",
        "answered",
        *(("failed",) if failures else ()),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in evaluation.cells:
        s = cell.summary()
        played = len(cell.episodes)
        answered = s.stop_reasons.get("answer", 0) / played if played else math.nan
        scores = (s.f1.mean, s.subem.mean, *((s.em_unicode.mean, s.f1_unicode.mean) if unicode else ()))
        table.add_row(
            cell.agent,
            *((cell.engine,) if several else ()),
            f"{cell.noise_level:g}",
            *map(share, scores),
            "-" if math.isnan(s.searches.mean) else f"{s.searches.mean:.2f}",
            *map(share, (s.invalid_rate, s.realised_noise, answered)),
            *((str(s.engine_failures + s.agent_failures),) if failures else ()),
        )
    shown = "F1, subEM, EM* and F1* (em_unicode, f1_unicode)" if unicode else "F1, subEM"
    title = f"all questions together; {shown}, invalid turns, noisy draws and answered episodes in %"
    return _titled(title, table)


def print_failures(cells: Sequence[Cell], console: Console) -> None:
    """Print the incomplete cells, if there are any: how many episodes failed, the first cause, and the way out."""
    incomplete = [cell for cell in cells if not cell.complete]
    for cell in incomplete:
        cause = next((result.error for result in cell.episodes if result.failed), None)
        console.print(
            f"incomplete: {cell.agent}, {cell.engine}, noise {cell.noise_level:g}: {cell.shortfall}; "
            f"the first cause: {redact(cause or 'unknown')}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if incomplete:
        console.print("the same command again plays only the episodes that failed", highlight=False, soft_wrap=True)


class EvaluationDisplay(ProgressBar):
    """Shows a progress bar over all cells in a terminal, and prints one line per finished cell.

    Args:
        console: where to print.
        episodes: total number of episodes over all cells.
    """

    def __init__(self, console: Console, episodes: int) -> None:
        super().__init__("episodes", episodes, every_s=None, transient=True, console=console)
        self._finished = 0

    def on_progress(self, cell: CellProgress) -> None:
        """Show the progress of a cell."""
        name = f"{cell.agent}, {cell.engine}, noise {cell.noise_level:g}"
        self.update(self._finished + cell.done, f"{name}: EM {100 * cell.em:.0f} %")

    def on_cell(self, cell: Cell, taken_over: bool) -> None:
        """Print the line of a finished cell, including cells reused from an earlier run."""
        self._finished += cell.planned
        self.update(self._finished)
        s = cell.summary()
        parts = [
            f"EM {percent(s.em)} %",
            *(f"{g} {100 * cell.summary(g).em.mean:.0f} %" for g in cell.groups if g and len(cell.groups) > 1),
            *(f"{name} {100 * cell.summary(data_source=name).em.mean:.0f} %" for name in cell.data_sources),
            f"{s.searches.mean:.2f} searches" if s.searches.n else "",
            f"{s.engine_failures} engine failures" if s.engine_failures else "",
            f"{s.agent_failures} agent failures" if s.agent_failures else "",
            "from an earlier run" if taken_over else f"{cell.seconds:.1f} s",
        ]
        self.print(f"  {cell.agent}, {cell.engine}, noise {cell.noise_level:g}: {', '.join(p for p in parts if p)}")
