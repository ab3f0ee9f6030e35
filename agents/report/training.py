"""The report's sections on training: learning curves, and transcripts of some questions before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.records.html import render_html
from zerosearch_env.records.transcripts import read_transcripts

from ..evaluation.evaluate import transcript_path
from ..evaluation.results import Evaluation
from .charts import SMALL, Axis, Point, Series, figure, fitted_axis, line_chart, percent, plain, share_axis, smoothed

if TYPE_CHECKING:
    from ..runs.rollbacks import Rollback


@dataclass(frozen=True)
class Pair:
    """One question as it was played before and after training."""

    reason: str
    """Why the report shows it."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]


_CURVES: tuple[tuple[str, str, str, str], ...] = (
    ("reward", "Reward", "mean over sampled episodes", "after"),
    ("em", "Exact match in training", "% of sampled episodes", "after"),
    ("searches", "Searches per episode", "searches, mean", "rag"),
    ("search_again", "Searched again after noise", "% of noisy searches", "rag"),
    ("noise_level", "Noise level p of the curriculum", "% of searches", "other3"),
    ("invalid_rate", "Turns without a valid action", "% of turns", "random"),
)
_SHARES = frozenset({"em", "search_again", "noise_level", "invalid_rate"})
_EXACT = frozenset({"noise_level"})
"""Set, not measured, and therefore drawn without smoothing."""


def training_section(metrics: Sequence[Mapping[str, float]], rollbacks: Sequence[Rollback] = ()) -> str:
    """The learning curves, and below them the alarms; empty without metrics."""
    if not metrics and not rollbacks:
        return ""
    charts = "".join(_curve(metrics, *curve) for curve in _CURVES)
    return (
        "<section><h2>Training</h2><p>Measured on the episodes sampled for training: training questions, "
        "temperature 1, the noise level of that step. Pale line: every step. Strong line: moving average.</p>"
        f'<div class="grid">{charts}</div>{_alarms(metrics, rollbacks)}</section>'
    )


def _alarms(metrics: Sequence[Mapping[str, float]], rollbacks: Sequence[Rollback]) -> str:
    """One line per rollback, and one with the steps (of those that were kept) at which an alarm was on."""
    lines = [
        f"After step {one.step} the run went back to step {one.to_step}, with another seed and a lower learning rate: "
        f"{one.alarm}. The curves leave out the discarded steps; they are in rollbacks.jsonl."
        for one in rollbacks
    ]
    steps = [f"{record['step']:.0f}" for record in metrics if record.get("alarms")]
    if steps:
        lines.append(f"An alarm was on after steps {', '.join(steps)}.")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>Alarms</h3><ul>{items}</ul>" if lines else ""


def _curve(metrics: Sequence[Mapping[str, float]], name: str, title: str, unit: str, key: str) -> str:
    records = [(record["step"], record[name]) for record in metrics if name in record and "step" in record]
    if not records:
        return ""
    steps, values = [r[0] for r in records], [r[1] for r in records]
    raw = tuple(map(Point, steps, values))
    window = 1 if name in _EXACT else max(1, len(values) // 8 * 2 + 1)
    smooth = tuple(map(Point, steps, smoothed(values, window)))
    series = [Series(title, key, smooth, markers=False)]
    if window > 1:
        series.insert(0, Series(title, key, raw, markers=False, faint=True))
    x = fitted_axis("training step", [0.0, max(steps)])
    form = percent if name in _SHARES else plain
    fitted = share_axis(unit) if name in ("em", "search_again") else fitted_axis(unit, values)
    y = Axis(unit, fitted.low, fitted.high, fitted.ticks, form)
    return figure(title, unit, line_chart(series, x, y, title=f"{title} over training steps", size=SMALL))


def choose_pairs(evaluation: Evaluation, folder: Path) -> list[Pair]:
    """A few questions that show what was learnt, and one that still fails; the first of each kind in dataset order.

    Args:
        evaluation: results of the agents `before` and `after`.
        folder: the evaluation's output folder, which contains the transcripts.
    """
    pairs: list[Pair] = []
    shown: set[Any] = set()
    for level, reason, wanted in _KINDS:
        cells = evaluation.find("before", level), evaluation.find("after", level)
        if None in cells:
            continue
        files = [transcript_path(folder, cell.key) for cell in cells if cell is not None]
        if not all(file.exists() for file in files):
            continue
        before, after = ({r["extra"].get("index"): r for r in read_transcripts(file)} for file in files)
        index = _first(
            index for index in sorted(before.keys() & after.keys() - shown) if wanted(before[index], after[index])
        )
        if index is not None:
            shown.add(index)
            pairs.append(Pair(reason, before[index], after[index]))
    return pairs


def _first(indices: Iterable[int]) -> int | None:
    return next(iter(indices), None)


def _right(record: Mapping[str, Any]) -> bool:
    return bool(record["scores"]["em"] == 1.0)


def _misled_first(record: Mapping[str, Any]) -> bool:
    """Whether the first search was noisy and another one followed."""
    searches = [turn for turn in record["turns"] if turn["documents"]]
    return len(searches) > 1 and searches[0]["noisy"] is True


def _hops(record: Mapping[str, Any]) -> Any:
    return record["extra"].get("hops")


_KINDS = (
    (
        0.5,
        "The documents of the first search mislead; after training the agent searches again.",
        lambda old, new: _hops(new) == 1 and _right(new) and not _right(old) and _misled_first(new),
    ),
    (
        0.0,
        "Two facts are needed; after training the agent asks for one, then for the other.",
        lambda old, new: _hops(new) == 2 and _right(new) and not _right(old) and new["scores"]["searches"] > 1,
    ),
    (0.0, "A question that only training made answerable.", lambda old, new: _right(new) and not _right(old)),
    (0.5, "A question that it still gets wrong.", lambda old, new: not _right(new)),
)


def transcripts_section(pairs: Sequence[Pair]) -> str:
    """Each question side by side, before and after; empty without pairs."""
    if not pairs:
        return ""
    parts = [
        "<section><h2>Transcripts, before and after</h2><p>The same question with the same draws of noise, played by "
        "the model before and after training. Noisy documents are marked here; the agent does not see the mark.</p>"
    ]
    for pair in pairs:
        columns = "".join(
            f"<div><h3>{label}</h3>{render_html(record, style=False)}</div>"
            for label, record in (("Before training", pair.before), ("After training", pair.after))
        )
        parts.append(f'<div class="example"><p>{escape(pair.reason)}</p><div class="pair">{columns}</div></div>')
    return "".join(parts) + "</section>"
