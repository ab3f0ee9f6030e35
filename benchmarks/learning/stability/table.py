"""The table and plot of `zerosearch bench stability`, with every seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zerosearch_agents.report.charts import Chart, Point, Series, fitted_axis, plain, share_axis, smoothed

from .faults import BEHAVIOURS

_COLOURS = ("after", "rag", "direct", "random")
LAST = 5
"""Number of final steps over which training metrics are averaged."""
HEAD = (
    "| behaviour | held-out EM, sampled, % | less than ours by, points | held-out EM, greedy, % | "
    "training reward, all steps | training reward, last steps | turns without action, % | "
    "entropy, nats | KL to the start | episodes that change when encoded again, % | alarm at the end |"
)


def summary(row: dict[str, Any]) -> dict[str, float]:
    """Return a run's metrics: means over its last steps, and the held-out EM in % if there is a policy."""
    last = row["steps"][-LAST:]
    names = ("reward", "invalid_rate", "entropy", "kl", "changed")
    figures = {
        name: statistics.mean(values) for name in names if (values := [step[name] for step in last if name in step])
    }
    if row["steps"]:
        figures["all"] = statistics.mean(step.get("reward", 0.0) for step in row["steps"])
    held_out = {name: 100 * interval["mean"] for name, interval in (row["held_out"] or {}).items()}
    return figures | held_out


def markdown(record: dict[str, Any]) -> str:
    """Format one table per setting, with one row per behaviour."""
    parts = [_setting(record, setting) for setting in record["settings"]]
    image = "![Reward over training steps: every seed pale, the moving average of their mean strong](stability.svg)"
    return "\n".join([*parts, image]) + "\n"


def _setting(record: dict[str, Any], setting: dict[str, Any]) -> str:
    rows = [row for row in record["runs"] if row["setting"] == setting["name"]]
    seeds = ", ".join(map(str, dict.fromkeys(row["seed"] for row in rows)))
    lines = [
        f"## {setting['name']}",
        "",
        f"{setting['title']} {setting['steps']} steps of 4 questions x 8 episodes, learning rate "
        f"{setting['learning_rate']:g}, KL coefficient {setting['kl_coefficient']:g}, one-hop questions, no noise. "
        f"Each cell: seeds {seeds}; held-out EM with its 95 % Wilson interval ({record['questions']} questions of the "
        f"test world) and in bold the mean; training figures are means of the last {LAST} steps but for one column.",
        "",
        HEAD,
        "|---" * (HEAD.count("|") - 1) + "|",
    ]
    start = record["starts"].get(setting["start"])
    if start:
        first = [row["steps"][0]["changed"] for row in rows if row["behaviour"] == "ours" and row["steps"]]
        changed = f"{100 * statistics.mean(first):.0f}" if first else "-"
        cells = _interval(start["sampled"]), "-", _interval(start["greedy"]), *["-"] * 5, changed, "-"
        lines.append(f"| (the start) | {' | '.join(cells)} |")
    ours = {row["seed"]: summary(row) for row in rows if row["behaviour"] == "ours"}
    for name in dict.fromkeys(row["behaviour"] for row in rows):
        lines.append(_line(name, [row for row in rows if row["behaviour"] == name], ours))
    broken = [
        f"- {row['behaviour']}, seed {row['seed']}, after {len(row['steps'])} steps: {row['ended']}"
        for row in rows
        if row["ended"] != "finished"
    ]
    return "\n".join([*lines, *([""] if broken else []), *broken, ""])


def _line(name: str, rows: Sequence[dict[str, Any]], ours: dict[int, dict[str, float]]) -> str:
    figures = [summary(row) for row in rows]

    def each(metric: str, style: str, scale: float = 1.0) -> str:
        return " ".join(format(scale * f[metric], style) if metric in f else "-" for f in figures)

    def held_out(decoding: str) -> str:
        cells = [_interval(row["held_out"][decoding]) if row["held_out"] else "-" for row in rows]
        known = [f[decoding] for f in figures if decoding in f]
        return " ".join(cells) + (f", **{statistics.mean(known):.0f}**" if known else "")

    pairs = zip(rows, figures, strict=True)
    both = [(ours.get(row["seed"], {}), mine) for row, mine in pairs]
    less = " ".join(f"{a['sampled'] - b['sampled']:.0f}" if "sampled" in a and "sampled" in b else "-" for a, b in both)
    cells = (
        name,
        held_out("sampled"),
        "-" if name == "ours" else less,
        held_out("greedy"),
        each("all", ".2f"),
        each("reward", ".2f"),
        each("invalid_rate", ".0f", 100.0),
        each("entropy", ".2f"),
        each("kl", ".3g"),
        each("changed", ".0f", 100.0),
        f"{sum(bool(row['alarms']) for row in rows)} of {len(rows)}",
    )
    return "| " + " | ".join(cells) + " |"


def _interval(interval: dict[str, float]) -> str:
    return f"{100 * interval['mean']:.0f} ({100 * interval['low']:.0f}-{100 * interval['high']:.0f})"


_WINDOW = 5
"""Steps of the moving average."""


def charts(record: dict[str, Any]) -> list[Chart]:
    """Reward over steps, one chart per setting: every seed pale, the moving average of their mean strong."""
    return [
        _chart(f"Reward. {setting['title']}", rows)
        for setting in record["settings"]
        if (rows := [row for row in record["runs"] if row["setting"] == setting["name"]])
    ]


def _chart(title: str, rows: Sequence[dict[str, Any]]) -> Chart:
    seeds: list[Series] = []
    means: list[Series] = []
    for name in dict.fromkeys(row["behaviour"] for row in rows):
        key = _COLOURS[BEHAVIOURS.index(name)]
        curves = [[step.get("reward", 0.0) for step in row["steps"]] for row in rows if row["behaviour"] == name]
        seeds += [Series(name, key, _points(curve), markers=False, faint=True) for curve in curves]
        mean = [statistics.mean(values) for values in zip(*curves, strict=False)]
        means.append(Series(name, key, _points(smoothed(mean, _WINDOW)), markers=False))
    steps = fitted_axis("training step", [max(len(row["steps"]) for row in rows)])
    return Chart(title, "reward", [*seeds, *means], steps, replace(share_axis("reward"), form=plain))


def _points(values: Sequence[float]) -> list[Point]:
    return [Point(step, value) for step, value in enumerate(values, start=1)]
