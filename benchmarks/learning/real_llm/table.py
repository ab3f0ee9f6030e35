"""The tables and the picture of `zerosearch bench real-llm`, with every seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zerosearch_agents.report.charts import Chart, Point, Series, fitted_axis, plain, share_axis, smoothed

NAMES = {
    ("untrained", "untrained"): "as downloaded",
    ("warm", "warm"): "after the warm start",
    ("trained", "trained"): "after reinforcement learning",
    ("untrained", "rag"): "RAG, weights as downloaded",
    ("warm", "rag"): "RAG, weights after the warm start",
    ("trained", "rag"): "RAG, weights after reinforcement learning",
    ("untrained", "direct"): "direct answer, weights as downloaded",
    ("warm", "direct"): "direct answer, weights after the warm start",
    ("trained", "direct"): "direct answer, weights after reinforcement learning",
}
"""What is measured, as (weights, agent) -> name in the tables, in their order."""
_COLOURS = {("untrained", "untrained"): "before", ("warm", "warm"): "rag-own", ("trained", "trained"): "after",
            ("trained", "rag"): "rag"}  # fmt: skip
_WINDOW = 9
"""Steps of the moving average."""

Cells = Sequence[Mapping[str, Any]]


def markdown(record: Mapping[str, Any]) -> str:
    """Format the record: a table of EM per kind of question, then searches, relations, and the runs."""
    cells, seeds = record["cells"], record["seeds"]
    parts = [
        f"Seeds {', '.join(map(str, seeds))}. Each cell: EM in % with its 95 % interval for every seed, and in bold "
        "their mean; what does not depend on a seed is measured once.",
        "",
    ]
    for kind in dict.fromkeys(cell["kind"] for cell in cells):
        here = [cell for cell in cells if cell["kind"] == kind]
        count = max(cell["em"]["n"] for cell in here)
        parts += [f"## {kind}, {count} test questions", "", *_table("EM, %", here, _em), ""]
        playing = [cell for cell in here if cell["agent"] == cell["weights"]]
        parts += [*_table("searches per episode", playing, _searches), ""]
        # Here the two scores differ most: the model as downloaded answers in sentences.
        if sentences := [cell for cell in here if (cell["weights"], cell["agent"]) == ("untrained", "rag")]:
            parts += [*_table("answer contains a gold answer, %", sentences, _subem), ""]
    parts += ["## one-hop by relation, noise 0", "", *_relations(cells), ""]
    parts += ["## Training", "", *_training(record["runs"]), ""]
    image = "![EM over noise, reward and searches over training steps: seeds pale, their mean strong](real-llm.svg)"
    return "\n".join([*parts, image]) + "\n"


def _em(cells: Cells, score: str = "em") -> str:
    each = " ".join(_interval(cell[score]) for cell in cells)
    mean = statistics.mean(100 * cell[score]["mean"] for cell in cells)
    return each if len(cells) == 1 else f"{each}, **{mean:.0f}**"


def _subem(cells: Cells) -> str:
    return _em(cells, "subem")


def _searches(cells: Cells) -> str:
    return " ".join(f"{cell['searches']:.2f}" for cell in cells)


def _interval(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['mean']:.0f} ({100 * interval['low']:.0f}-{100 * interval['high']:.0f})"


def _rows(cells: Cells) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for key, name in NAMES.items():
        if mine := [cell for cell in cells if (cell["weights"], cell["agent"]) == key]:
            yield name, mine


def _table(what: str, cells: Cells, form: Any) -> Iterator[str]:
    levels = sorted({cell["noise"] for cell in cells})
    yield f"| {what} | " + " | ".join(f"noise {level:g}" for level in levels) + " |"
    yield "|---" * (len(levels) + 1) + "|"
    for name, mine in _rows(cells):
        at = [[cell for cell in mine if cell["noise"] == level] for level in levels]
        yield f"| {name} | " + " | ".join(form(found) if found else "" for found in at) + " |"


def _relations(cells: Cells) -> Iterator[str]:
    chosen = [cell for cell in cells if cell["kind"] == "one-hop" and cell["noise"] == 0]
    names = sorted({name for cell in chosen for name in cell["relations"]})
    yield "| EM, % | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for name, mine in _rows(chosen):
        figures = [
            [cell["relations"][relation] for cell in mine if relation in cell["relations"]] for relation in names
        ]
        yield f"| {name} | " + " | ".join(" ".join(_interval(em) for em in row) for row in figures) + " |"


def _training(runs: Cells) -> Iterator[str]:
    yield (
        "| seed | steps | reward, first and last ten | searches, first and last ten | hours of warm start "
        "| of training | of tests |"
    )
    yield "|---|---|---|---|---|---|---|"
    for run in runs:
        steps = [step for step in run["steps"] if "reward" in step]  # step 0 is only evaluated
        figures = []
        for metric in ("reward", "searches"):
            values = [step[metric] for step in steps if metric in step]
            ends = values[:10], values[-10:]
            figures.append(", ".join(f"{statistics.mean(end):.2f}" for end in ends) if values else "-")
        seconds = run["seconds"]
        tests = sum(value for name, value in seconds.items() if name.startswith("test"))
        hours = " | ".join(f"{value / 3600:.1f}" for value in (seconds["warm start"], seconds["training"], tests))
        yield f"| {run['seed']} | {len(steps)} | {figures[0]} | {figures[1]} | {hours} |"


def charts(record: Mapping[str, Any]) -> list[Chart]:
    """EM over noise on one-hop questions, and reward and searches over training steps."""
    level = replace(share_axis("probability that a search is noisy, %"), high=0.75, ticks=(0.0, 0.25, 0.5, 0.75))
    em = Chart("SmolLM2-135M on new questions over Wikipedia", "EM, %", list(_curves(record)), level, share_axis("EM"))
    drawn = [em]
    for metric, title in (("reward", "Reward in training"), ("searches", "Searches per episode in training")):
        curves = [[step[metric] for step in run["steps"] if metric in step] for run in record["runs"]]
        curves = [curve for curve in curves if curve]
        if not curves:
            continue
        seeds = [Series("seed", "after", _points(curve), markers=False, faint=True) for curve in curves]
        mean = [statistics.mean(values) for values in zip(*curves, strict=False)]
        line = Series(f"{metric}, moving average", "after", _points(smoothed(mean, _WINDOW)), markers=False)
        steps = fitted_axis("training step", [max(map(len, curves))])
        height = share_axis(metric) if metric == "reward" else fitted_axis(metric, [max(map(max, curves))])
        drawn.append(Chart(title, metric, [*seeds, line], steps, replace(height, form=plain)))
    return drawn


def _curves(record: Mapping[str, Any]) -> Iterator[Series]:
    cells = [cell for cell in record["cells"] if cell["kind"] == "one-hop"]
    for key, colour in _COLOURS.items():
        mine = [cell for cell in cells if (cell["weights"], cell["agent"]) == key]
        if not mine:
            continue
        of_level: dict[float, list[float]] = {}
        of_seed: dict[Any, list[Point]] = {}
        for cell in mine:
            of_level.setdefault(cell["noise"], []).append(cell["em"]["mean"])
            of_seed.setdefault(cell["seed"], []).append(Point(cell["noise"], cell["em"]["mean"]))
        if len(of_seed) > 1:
            yield from (Series(NAMES[key], colour, points, markers=False, faint=True) for points in of_seed.values())
        yield Series(NAMES[key], colour, [Point(x, statistics.mean(of_level[x])) for x in sorted(of_level)])


def _points(values: Sequence[float]) -> list[Point]:
    return [Point(step, value) for step, value in enumerate(values, start=1)]
