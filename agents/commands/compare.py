"""`zerosearch compare`: every agent against every other, over the output folders of one or several evaluations.

    zerosearch compare runs/eval runs/mine                    # tables in the terminal
    zerosearch compare runs/eval runs/mine --metric truthfulness --by hops --json > comparison.json
    zerosearch compare runs/mine --check                      # is it a whole and unchanged benchmark run?

Folders are refused, with what differs, unless their agents were given the same questions, seed, rules, engines and
benchmark definition. Exit status: 0; 1 if --check refuses a folder; 2 after an error.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError, DataError

from ..evaluation.analysis.behaviour import behaviour
from ..evaluation.analysis.comparison import Comparison, comparisons
from ..evaluation.analysis.robustness import Curve, curves
from ..evaluation.episodes import metric_kind
from ..evaluation.join import join
from ..evaluation.results import Evaluation
from ..evaluation.statistics import Interval
from ..evaluation.stored.check import Check, check_folder

SCHEMA_VERSION = 1
"""The version of the JSON output."""
REFUSED = 1
"""Exit status if a folder is refused."""
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class CompareConfig:
    """Compare the agents of evaluations: paired differences, exact tests corrected for their number, and curves."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Output folders of `zerosearch eval` or `zerosearch bench robustness`, or run directories."""
    metric: str = "em"
    """The score: em, f1, subem, misled, abstained, hallucinated, truthfulness, recall, searches, or an additional
    score."""
    agents: tuple[str, ...] | None = None
    """The agents to compare; unset: all."""
    engine: str | None = None
    """Only this engine; unset: all."""
    by: Literal["hops", "data_source", "relation"] | None = None
    """Compare within the questions of each number of hops, data set or relation; unset: over all questions."""
    json: bool = False
    """Print JSON, for scripts (docs/results.md), instead of tables."""
    check: bool = False
    """Check each folder instead: settings complete, hashes right, every cell of the benchmark's definition there,
    transcripts the same as the results."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch compare`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        The exit status: 0, or 1 if `--check` refuses a folder.

    Raises:
        ConfigError: no folder was given, or an agent, the engine or the metric is unknown.
        DataError: a folder holds no results, or was changed; two were measured differently; there is one agent only.
    """
    config = read_options(CompareConfig, argv, "zerosearch compare", description=__doc__)
    if not config.folders:
        raise ConfigError("no folder given: pass the output folder of an evaluation, for example runs/eval")
    if config.check:
        checks = [check_folder(folder) for folder in config.folders]
        if config.json:
            print(_dump({"folders": [check.as_dict() for check in checks]}))
        else:
            _print_checks(checks)
        return 0 if all(check.accepted for check in checks) else REFUSED
    evaluation = join(config.folders)
    pairs = comparisons(evaluation, config.metric, config.agents, engine=config.engine, by=config.by)
    chosen = config.agents or evaluation.agents
    if len(set(chosen)) < 2:
        raise DataError(f"only one agent to compare, {chosen[0] if chosen else 'none'}: give a folder with another one")
    lines = [c for c in curves(evaluation, config.engine, metric=config.metric) if c.agent in chosen]
    if config.json:
        print(_dump(_values(config, evaluation, lines, pairs)))
    else:
        unit = "" if metric_kind(config.metric) == "count" else " in %"
        title = f"{config.metric}{unit} by noise level; area: mean over 0 to 0.75; kept: share left at 0.5, in %"
        _print_grid(title, _curve_rows(lines, evaluation, config.metric))
        title = (
            f"paired differences in {config.metric}{unit and ' in points'} with 95 % intervals; * p < {_SIGNIFICANT:g} "
            f"after the Holm correction for {len(pairs)} comparisons"
        )
        _print_grid(title, _comparison_rows(pairs, evaluation, config.metric))
    return 0


def _dump(values: dict[str, Any]) -> str:
    return json.dumps({"schema_version": SCHEMA_VERSION, **values}, ensure_ascii=False, indent=1)


def _values(
    config: CompareConfig, evaluation: Evaluation, lines: Sequence[Curve], pairs: Sequence[Comparison]
) -> dict[str, Any]:
    """The JSON output; docs/results.md describes it."""
    chosen = config.agents or evaluation.agents
    cells = [c for c in evaluation.cells if c.agent in chosen and config.engine in (None, c.engine)]
    return {
        "folders": [str(folder) for folder in config.folders],
        "definition": evaluation.settings.get("definition"),
        "metric": config.metric,
        "by": config.by,
        "agents": list(chosen),
        "curves": [line.as_dict() for line in lines],
        "comparisons": [pair.as_dict() for pair in pairs],
        "behaviour": [{**cell.key._asdict(), **behaviour(cell).as_dict()} for cell in cells],
    }


def _print_checks(checks: Sequence[Check]) -> None:
    """Print what was found out about each folder, a line per problem and note."""
    for check in checks:
        name = "{name} ({hash})".format(**check.definition) if len(check.definition) == 2 else "no definition"
        print(f"{check.folder}: {'accepted' if check.accepted else 'refused'}, {name}")
        for problem in check.problems:
            print(f"  problem: {problem}")
        for note in check.notes:
            print(f"  {note}")


_Rows = list[tuple[str, list[str]]]
"""Label of a row, and its cells, of up to two lines each. A row without cells is a heading."""


def _curve_rows(lines: Sequence[Curve], evaluation: Evaluation, metric: str) -> _Rows:
    """The score of each agent at each level, the area, the share kept and the level at which half is lost."""
    levels, several = evaluation.noise_levels, len(evaluation.engines) > 1
    rows: _Rows = [("", [*(f"{level:g}" for level in levels), "area", "kept", "half lost"])]
    previous = None
    for line in lines:
        heading = f"{line.agent}, {line.engine}" if several else line.agent
        if heading != previous:
            rows.append((heading, []))
            previous = heading
        points = [_figure(line.points[level], metric) if level in line.points else "" for level in levels]
        half = "-" if line.half_lost_at is None else f"{line.half_lost_at:.2f}"
        cells = [point.partition("\n")[0] for point in points]  # without their intervals, which would not fit
        rows.append((f"  {line.noise_kind}", [*cells, _figure(line.area, metric), _figure(line.kept), half]))
    return rows


def _comparison_rows(pairs: Sequence[Comparison], evaluation: Evaluation, metric: str) -> _Rows:
    """The difference of each pair at each level, with a star where the corrected p-value is small."""
    levels: list[float | None] = [*sorted({pair.noise_level for pair in pairs if pair.noise_level is not None})]
    levels += [None] if any(pair.noise_level is None for pair in pairs) else []
    rows: _Rows = [("", ["area" if level is None else f"{level:g}" for level in levels])]
    groups: dict[str, dict[str, dict[float | None, Comparison]]] = {}
    for pair in pairs:
        engine = pair.engine if len(evaluation.engines) > 1 else ""
        heading = ", ".join(filter(None, (f"{pair.first} - {pair.second}", engine, pair.subset)))
        # Level 0 is compared once, and stands with the first kind.
        kind = pair.noise_kind if pair.noise_level != 0 else evaluation.noise_kinds[0]
        groups.setdefault(heading, {}).setdefault(kind, {})[pair.noise_level] = pair
    for heading, kinds in groups.items():
        rows.append((heading, []))
        for kind, of_level in kinds.items():
            cells = [
                _figure(of_level[level].difference, metric, "+", star=of_level[level].p_holm < _SIGNIFICANT)
                if level in of_level
                else ""
                for level in levels
            ]
            rows.append((f"  {kind}", cells))
    return rows


def _figure(interval: Interval, metric: str = "em", sign: str = "", *, star: bool = False) -> str:
    """A figure over its interval: a share in percent, a count as it is."""
    if interval.n == 0:
        return "-"
    scale, digits = (1, 2) if metric_kind(metric) == "count" else (100, 1)
    mean, low, high = scale * interval.mean, scale * interval.low, scale * interval.high
    return f"{mean:{sign}.{digits}f}{'*' if star else ''}\n{low:{sign}.{digits - 1}f}..{high:{sign}.{digits - 1}f}"


def _print_grid(title: str, rows: _Rows) -> None:
    """Print rows under a title, with columns as wide as their content; headings do not widen them."""
    filled = [(label, [cell.split("\n") for cell in cells]) for label, cells in rows]
    first = max(len(label) for label, cells in rows if cells)
    columns = zip(*(cells for _, cells in filled if cells), strict=True)
    widths = [max(len(line) for cell in column for line in cell) for column in columns]
    print(title)
    for label, cells in filled:
        height = max(map(len, cells), default=1)
        for number in range(height):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            text = "".join(f"  {part:>{width}}" for part, width in zip(parts, widths, strict=False))
            print(f"{label if not number else '':{first}}{text}".rstrip())
    print()
