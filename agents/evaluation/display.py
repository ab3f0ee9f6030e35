"""The tables of an evaluation on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from zerosearch_env.game.noise_kinds import DISTRACTOR
from zerosearch_env.privacy import redact

from .analysis.robustness import AREA_LEVELS, KEPT_LEVEL, curves
from .episodes import JUDGE
from .results import Cell, Evaluation
from .statistics import Interval


def percent(interval: Interval, *, narrow: bool = False, sign: str = "") -> str:
    """A share with its 95 % interval in percent: `81.3 [76.5, 85.3]`.

    Args:
        interval: the share, or a difference of two.
        narrow: write two lines, `81.3` over `77 to 85`.
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


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print EM at every noise level for every group of questions, then the tables of the agents' behaviour."""
    for engine in evaluation.engines:
        for group in evaluation.groups or (None,):
            console.print(em_table(evaluation, group, engine, width=console.width))
        if evaluation.outcomes:
            console.print(_outcomes(evaluation, engine, console.width))
        if evaluation.data_sources:
            console.print(_data_sources(evaluation, engine, console.width))
        if evaluation.samples > 1:
            console.print(_sample_scores(evaluation, engine, console.width))
        if evaluation.additional_scores:
            console.print(_additional_scores(evaluation, engine, console.width))
        if len(evaluation.agents) > 1:
            console.print(_differences(evaluation, engine, console.width))
        if len(evaluation.noise_kinds) > 1 and any(evaluation.noise_levels):
            console.print(_kind_differences(evaluation, engine, console.width))
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
    rows = _rows(Evaluation(tuple(cells)), engine, lambda cell: cell.summary(group).em, mark_incomplete=True)
    counts = {cell.summary(group).em.n for cell in cells}
    low, high = min(counts, default=0), max(counts, default=0)
    questions = f"{high} questions" if low == high else f"{low} to {high} questions"
    if (samples := evaluation.samples) > 1:
        questions = f"mean@{samples}; {questions}"
    title = f"EM in %, {group or 'all'} questions{_which(evaluation, engine)} (95 % interval; {questions})"
    return _level_table(title, rows, levels, width)


def _outcomes(evaluation: Evaluation, engine: str, width: int) -> Group:
    """What the answers that are not right came to, of every agent at every noise level."""

    def outcome(name: str, cell: Cell) -> Interval:
        interval: Interval = getattr(cell.summary(), name)
        return interval

    rows = _named_rows(evaluation, engine, outcome, evaluation.outcomes)
    title = f"outcomes of answers in %{_which(evaluation, engine)} (95 % interval)"
    return _level_table(title, rows, evaluation.noise_levels, width)


def _sample_scores(evaluation: Evaluation, engine: str, width: int) -> Group:
    """mean@k, pass@k and majority@k of every agent at every noise level."""

    def named(cell: Cell) -> dict[str, Interval]:
        scores = cell.summary().samples
        return {} if scores is None else scores.named()

    cells = [cell for cell in evaluation.cells if cell.engine == engine]
    names = dict.fromkeys(name for cell in cells for name in named(cell))
    rows = _named_rows(evaluation, engine, lambda name, cell: named(cell).get(name), names)
    title = f"EM in %, {evaluation.samples} samples per question{_which(evaluation, engine)} (95 % interval)"
    return _level_table(title, rows, evaluation.noise_levels, width)


def _data_sources(evaluation: Evaluation, engine: str, width: int) -> Group:
    """EM of every agent at every noise level, for each data set."""
    names = evaluation.data_sources
    rows = _named_rows(evaluation, engine, lambda name, cell: cell.summary(data_source=name).em, names)
    title = f"EM in %, by data source{_which(evaluation, engine)} (95 % interval)"
    return _level_table(title, rows, evaluation.noise_levels, width)


def _additional_scores(evaluation: Evaluation, engine: str, width: int) -> Group:
    """Every additional score, and the judge's agreement with EM, of every agent at every noise level."""

    def agreement(cell: Cell) -> Interval | None:
        summary = cell.summary()
        return None if summary.agreement is None else summary.agreement.share

    rows: _Rows = []
    for name in evaluation.additional_scores:
        rows += _named_rows(evaluation, engine, lambda name, cell: cell.summary().extra.get(name), [name])
        if name == JUDGE:
            rows += _rows(evaluation, engine, agreement, f"{JUDGE} agrees with EM")
    table = _level_table(f"additional scores in %{_which(evaluation, engine)}", rows, evaluation.noise_levels, width)
    missing = [
        f"{name} has no value in {count} of {len(cell.finished)} episodes of {cell.key}"
        for cell in evaluation.cells
        for name, count in cell.summary().without_value.items()
        if count and cell.engine == engine
    ]
    return Group(table, *map(Text, missing))


def _differences(evaluation: Evaluation, engine: str, width: int) -> Group:
    """The first agent's EM minus each other agent's, on the same questions."""
    first, *others = evaluation.agents

    def difference(cell: Cell) -> Interval:
        level, kind = cell.noise_level, cell.noise_kind
        return evaluation.difference(first, cell.agent, level, engine=engine, noise_kind=kind)

    compared = Evaluation(tuple(cell for cell in evaluation.cells if cell.agent in others))
    title = f"EM of {first} minus EM of ..., in points, paired{_which(evaluation, engine)}"
    return _level_table(title, _rows(compared, engine, difference), evaluation.noise_levels, width, sign="+")


def _kind_differences(evaluation: Evaluation, engine: str, width: int) -> Group:
    """EM with the first kind of noise minus EM with each other kind, on the same questions and draws."""
    first, *others = evaluation.noise_kinds

    def difference(cell: Cell) -> Interval:
        return evaluation.kind_difference(cell.agent, cell.noise_kind, first, cell.noise_level, engine=engine)

    compared = Evaluation(tuple(cell for cell in evaluation.cells if cell.noise_kind in others and cell.noise_level))
    title = f"EM with ... minus EM with {first}, in points, paired{_which(evaluation, engine)}"
    rows = _rows(compared, engine, difference, always_kinds=True)
    return _level_table(title, rows, compared.noise_levels, width, sign="+")


_Rows = list[tuple[str, list[Interval | None]]]
"""Label of a row, and its figure at each noise level, if there is one. A row without figures is a heading."""


def _rows(
    evaluation: Evaluation,
    engine: str,
    figure: Callable[[Cell], Interval | None],
    heading: str = "",
    *,
    mark_incomplete: bool = False,
    always_kinds: bool = False,
) -> _Rows:
    """A row per agent with a figure at each noise level.

    Args:
        evaluation: the results; a cell that is not in them has no figure.
        engine: the engine's name.
        figure: the figure of a cell.
        heading: what the figures are, in a row above them. If there are several kinds of noise, each has its rows.
        mark_incomplete: write below an agent's name that a cell of its row is incomplete.
        always_kinds: name the kind of noise even if there is only one.
    """
    rows: _Rows = []
    kinds = evaluation.noise_kinds
    for kind in kinds:
        parts = [heading, kind if len(kinds) > 1 or always_kinds else ""]
        if label := ", ".join(filter(None, parts)):
            rows.append((label, []))
        for agent in evaluation.agents:
            cells = [evaluation.find(agent, level, engine, kind) for level in evaluation.noise_levels]
            if not any(cells):
                continue
            complete = all(cell is None or cell.complete for cell in cells)
            mark = "\n(incomplete)" if mark_incomplete and not complete else ""
            indent = "  " if label else ""
            rows.append((f"{indent}{agent}{mark}", [None if cell is None else figure(cell) for cell in cells]))
    return rows


def _named_rows(
    evaluation: Evaluation, engine: str, figure: Callable[[str, Cell], Interval | None], names: Iterable[str]
) -> _Rows:
    """The `_rows` of each of several figures, under its name; `figure` gets the name and the cell."""
    return [row for name in names for row in _rows(evaluation, engine, partial(figure, name), name)]


def _level_table(title: str, rows: _Rows, levels: Sequence[float], width: int, *, sign: str = "") -> Group:
    """A table with a column of labels, then one column per noise level; figures that do not fit take two lines."""
    labels = max((len(label.partition("\n")[0]) for label, _ in rows), default=0)
    narrow = labels + 3 + len(levels) * (len("+10.0 [+10.0, +10.0]") + 2) > width
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("agent", overflow="fold")
    for level in levels:
        table.add_column(f"noise {level:g}", justify="right", no_wrap=True)
    for label, intervals in rows:
        if not intervals:
            table.add_section()
        table.add_row(
            Text(label, style="" if intervals else "bold"),
            *("" if i is None else percent(i, narrow=narrow, sign=sign) for i in intervals),
        )
    return _titled(title, table)


def _titled(title: str, table: Table) -> Group:
    """A table under its title, which rich itself would wrap at the width of the table."""
    return Group(Text(title, style="italic"), table)


def _which(evaluation: Evaluation, engine: str) -> str:
    """A clause that names the engine if there are several, and the kind of noise if there is only another one."""
    kinds = evaluation.noise_kinds
    kind = f", {kinds[0]}" if len(kinds) == 1 and kinds != (str(DISTRACTOR),) else ""
    return f", {engine}{kind}" if len(evaluation.engines) > 1 else kind


def _behaviour(evaluation: Evaluation) -> Group:
    """One line per cell, under its agent: scores, searches, invalid turns, realised noise, answers, failed episodes.

    The scores for any script have columns where they differ from SQuAD's; results.json always has them.
    """
    cells, rows = evaluation.cells, [cell.summary() for cell in evaluation.cells]
    columns = {
        "agent": [f"  noise {cell.noise_level:g}" for cell in cells],
        "F1": [share(row.f1.mean) for row in rows],
        "subEM": [share(row.subem.mean) for row in rows],
        "EM*": [share(row.em_unicode.mean) for row in rows],
        "F1*": [share(row.f1_unicode.mean) for row in rows],
        "searches": ["-" if math.isnan(row.searches.mean) else f"{row.searches.mean:.2f}" for row in rows],
        "invalid": [share(row.invalid_rate) for row in rows],
        "noisy": [share(row.realised_noise) for row in rows],
        "answered": [
            share(row.stop_reasons.get("answer", 0) / (len(cell.episodes) or math.nan))
            for cell, row in zip(cells, rows, strict=True)
        ],
        "failed": [str(row.engine_failures + row.agent_failures) for row in rows],
    }
    shown = "F1, subEM, EM* and F1* (em_unicode, f1_unicode)"
    if all((row.em_unicode, row.f1_unicode) == (row.em, row.f1) for row in rows):
        del columns["EM*"], columns["F1*"]
        shown = "F1, subEM"
    if set(columns["failed"]) <= {"0"}:
        del columns["failed"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        label = name == "agent"
        table.add_column(name, justify="left" if label else "right", overflow="fold", no_wrap=not label)
    shown_heading = None
    for cell, line in zip(cells, zip(*columns.values(), strict=True), strict=True):
        kind = f", {cell.noise_kind}" if len(evaluation.noise_kinds) > 1 else ""
        heading = f"{cell.agent}{_which(evaluation, cell.engine)}{kind}"
        if heading != shown_heading:
            table.add_section()
            table.add_row(Text(heading, style="bold"))
            shown_heading = heading
        table.add_row(*line)
    return _titled(f"all questions together; {shown}, invalid turns, noisy draws and answered episodes in %", table)


def print_curves(evaluation: Evaluation, console: Console) -> None:
    """Print the figures that sum up each robustness curve (`analysis/robustness.py`), one line per agent and kind."""
    for engine in evaluation.engines:
        found = curves(evaluation, engine)
        columns = {
            "area": [percent(curve.area) for curve in found],
            f"kept at {KEPT_LEVEL:g}": [percent(curve.kept) for curve in found],
            "half\nlost at": ["-" if c.half_lost_at is None else f"{c.half_lost_at:.2f}" for c in found],
            "abstained\nat 1": [share(curve.abstained.mean) for curve in found],
        }
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("agent", overflow="fold", min_width=16)
        shown = {name: texts for name, texts in columns.items() if set(texts) != {"-"}}
        if not shown:
            continue
        for name in shown:
            table.add_column(name, justify="right", no_wrap=True)
        heading = None
        for curve, line in zip(found, zip(*shown.values(), strict=True), strict=True):
            if curve.agent != heading:
                heading = curve.agent
                table.add_section()
                table.add_row(Text(heading, style="bold"))
            table.add_row(f"  {curve.noise_kind}", *line)
        mean = f"mean EM over noise {', '.join(f'{level:g}' for level in AREA_LEVELS)}"
        title = (
            f"robustness in %{_which(evaluation, engine)}: area ({mean}), share of the clean EM kept (95 % interval)"
        )
        console.print(_titled(title, table))


def print_failures(cells: Sequence[Cell], console: Console) -> None:
    """Print the incomplete cells, if there are any: how many episodes failed, the first cause, and the way out."""
    incomplete = [cell for cell in cells if not cell.complete]
    for cell in incomplete:
        cause = next((result.error for result in cell.episodes if result.failed), None)
        console.print(f"incomplete: {cell.key}: {cell.shortfall}; the first cause: {redact(cause or 'unknown')}")
    if incomplete:
        console.print("the same command again plays only the episodes that failed")
