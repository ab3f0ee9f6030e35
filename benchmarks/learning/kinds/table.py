"""The tables of `zerosearch bench kinds`, with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .stages import MIXTURE

NAMES = {
    "shipped": "before training",
    "distractors": "trained on distractors",
    "mixture": "trained on the mixture",
    "abstaining": "before training, can abstain",
    "em": "trained with EM",
    "ternary": "trained with ternary",
}
"""The policies, as (name in the record) -> name in the tables, in their order."""
_OUTCOMES = ("em", "abstained", "hallucinated", "truthfulness")

Row = Mapping[str, Any]


def markdown(record: Mapping[str, Any]) -> str:
    """Format the record: EM under every kind of noise, wrong answers taken over, and the two rewards."""
    rows = [row for row in record["figures"] if row["questions"] == "all"]
    count = max(row["em"]["n"] for row in rows)
    noisy = sorted({row["noise"] for row in rows} - {0.0}) or [0.0]
    parts = [
        f"Seeds {', '.join(map(str, record['seeds']))}. Each cell: the figure of every seed in %, in bold their mean "
        f"with its 95 % interval over {count} test questions (one- and two-hop in equal parts); policies before "
        "training are measured once. Differences are in points, paired.",
        "",
        f"## Trained on distractors or on a mixture ({MIXTURE})",
        "",
        "EM reward; noise rises to 0.5 in training, as in the quickstart.",
        "",
    ]
    columns = ("shipped", "distractors", "mixture")
    for level in noisy:
        parts += [*_table(rows, level, "em", columns, _difference(record, "mixture", "distractors", "em")), ""]
    parts += [
        "## EM reward or ternary",
        "",
        'Both start from a policy that has been shown to answer "unknown"; noise rises to 1 in training. At noise 1 '
        "the answer is only in documents of the kinds mixed, garbled, markup and redundant; under the others the best "
        "answer is to abstain. Figures are means over seeds: EM / abstained / hallucinated / truthfulness, in %.",
        "",
    ]
    for level in noisy:
        parts += [*_outcomes(record, rows, level), ""]
    parts += ["## Misled", "", "Share of answers that are a wrong answer which the documents stated.", ""]
    for level in noisy:
        lines = list(_table(rows, level, "misled", tuple(NAMES), None, only_some=True))
        parts += [*lines, ""] if len(lines) > 2 else []
    parts += ["## Searches per episode", "", "In brackets: episodes that ended because the context was full, in %.", ""]
    for level in noisy:
        parts += [*_searches(rows, level), ""]
    parts += ["## Stages", "", *_stages(record["runs"])]
    return "\n".join(parts) + "\n"


def _find(rows: Sequence[Row], policy: str, kind: str, level: float) -> Row | None:
    mine = (row for row in rows if (row["policy"], row["kind"], row["noise"]) == (policy, kind, level))
    return next(mine, None)


def _cases(rows: Sequence[Row], level: float) -> list[tuple[str, str, float]]:
    """(label, kind, level) of each line: no noise first, then every kind."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    without = [("no noise", kinds[0], 0.0)] if level and any(row["noise"] == 0 for row in rows) else []
    return [*without, *((kind, kind, level) for kind in kinds)]


def _table(
    rows: Sequence[Row],
    level: float,
    metric: str,
    policies: Sequence[str],
    difference: Mapping[tuple[str, float], Row] | None,
    *,
    only_some: bool = False,
) -> Iterator[str]:
    """A table of one metric; with `only_some`, only of kinds under which it is above 0 for some policy."""
    last = ["difference of the last two"] if difference is not None else []
    heads = [
        f"{metric.upper() if metric == 'em' else metric}, noise {level:g}",
        *(NAMES[name] for name in policies),
        *last,
    ]
    yield from _head(heads)
    for label, kind, at in _cases(rows, level):
        found = [_find(rows, policy, kind, at) for policy in policies]
        if only_some and not any(row and row[metric]["mean"] for row in found):
            continue
        cells = ["" if row is None else _figure(row[metric]) for row in found]
        if difference is not None:
            cells.append(_signed(difference.get((kind, at))))
        yield f"| {label} | {' | '.join(cells)} |"


def _outcomes(record: Mapping[str, Any], rows: Sequence[Row], level: float) -> Iterator[str]:
    policies = ("abstaining", "em", "ternary")
    difference = _difference(record, "ternary", "em", "truthfulness")
    yield from _head([f"noise {level:g}", *(NAMES[name] for name in policies), "truthfulness: ternary minus EM"])
    for label, kind, at in _cases(rows, level):
        found = [_find(rows, policy, kind, at) for policy in policies]
        cells = ["" if row is None else " / ".join(_percent(row[name]["mean"]) for name in _OUTCOMES) for row in found]
        yield f"| {label} | {' | '.join(cells)} | {_signed(difference.get((kind, at)))} |"


def _searches(rows: Sequence[Row], level: float) -> Iterator[str]:
    yield from _head([f"noise {level:g}", *NAMES.values()])
    for label, kind, at in _cases(rows, level):
        found = [_find(rows, policy, kind, at) for policy in NAMES]
        cells = ["" if row is None else _search_figure(row) for row in found]
        yield f"| {label} | {' | '.join(cells)} |"


def _search_figure(row: Row) -> str:
    full = f" ({_percent(row['out_of_context'])})" if row["out_of_context"] else ""
    return f"{row['searches']['mean']:.2f}{full}"


def _stages(runs: Sequence[Row]) -> Iterator[str]:
    yield from _head(["seed", "minutes of each stage"])
    for run in runs:
        minutes = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in run["seconds"].items())
        yield f"| {'all' if run['seed'] is None else run['seed']} | {minutes} |"


def _head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _difference(record: Mapping[str, Any], first: str, second: str, metric: str) -> dict[tuple[str, float], Row]:
    rows = (row for row in record["differences"] if (row["first"], row["second"]) == (first, second))
    return {(row["kind"], row["noise"]): row for row in rows if row["metric"] == metric}


def _figure(interval: Mapping[str, Any]) -> str:
    """`51 53 52, **52** (47 to 57)`; without the seeds if there is one."""
    if interval["mean"] is None:
        return "-"
    seeds = " ".join(_percent(mean) for mean in interval["seeds"]) + ", " if len(interval["seeds"]) > 1 else ""
    return f"{seeds}**{_percent(interval['mean'])}** ({_percent(interval['low'])} to {_percent(interval['high'])})"


def _signed(row: Row | None) -> str:
    if row is None or row["mean"] is None:
        return ""
    mean, low, high = (f"{round(100 * row[name]):+d}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _percent(share: float | None) -> str:
    return "-" if share is None else str(round(100 * share))
