"""The report's sections on training: learning curves, alarms, and transcripts of some questions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.records.transcripts import read_transcripts

from ..evaluation.results import Evaluation
from ..evaluation.store import transcript_path
from .charts import SMALL, Chart, Point, Series, fitted_axis, percent, share_axis, smoothed

if TYPE_CHECKING:
    from ..runs.rollbacks import Rollback


@dataclass(frozen=True)
class Pair:
    """Two episodes next to each other: one question as it was played before and after training, or early and late."""

    reason: str
    """Why the report shows it."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    headings: tuple[str, str] = ("Before training", "After training")


_CURVES: tuple[tuple[str, str, str, str], ...] = (
    ("reward", "Reward", "mean over sampled episodes", "after"),
    ("em", "Exact match in training", "% of sampled episodes", "after"),
    ("searches", "Searches per episode", "searches, mean", "rag"),
    ("search_again", "Searched again after noise", "% of noisy searches", "rag"),
    ("noise_level", "Noise level p of the curriculum", "% of searches", "direct"),
    ("abstained", "Abstained", "% of sampled episodes", "direct"),
    ("hallucinated", "Wrong and not abstained", "% of sampled episodes", "random"),
    ("misled", "Misled by noisy documents", "% of sampled episodes", "random"),
    ("invalid_rate", "Turns without a valid action", "% of turns", "random"),
)
_OUTCOMES = frozenset({"misled", "abstained", "hallucinated"})
_SHARES = frozenset({"em", "search_again", "noise_level", "invalid_rate", *_OUTCOMES})
_EXACT = frozenset({"noise_level"})
"""Set, not measured, and therefore drawn without smoothing."""


def training_curves(metrics: Sequence[Mapping[str, float]]) -> list[Chart]:
    """One chart per metric that the records have; outcomes other than right and wrong only if there were any."""
    plain = not any(record.get(name) for record in metrics for name in ("misled", "abstained"))
    curves = (_curve(metrics, *curve) for curve in _CURVES if not (plain and curve[0] in _OUTCOMES))
    return [curve for curve in curves if curve is not None]


def alarm_notes(metrics: Sequence[Mapping[str, float]], rollbacks: Sequence[Rollback]) -> list[str]:
    """One sentence per rollback, and one with the steps (of those that were kept) at which an alarm was on."""
    trained = [record["updates"] for record in metrics if "updates" in record]
    idle = trained.count(0.0)
    notes = [f"There was no update in {idle} of {len(trained)} steps."] if idle else []
    notes += [
        f"After step {rollback.step} the run went back to step {rollback.to_step}, with another seed and a lower "
        f"learning rate: {rollback.alarm}. The curves leave out the discarded steps; they are in rollbacks.jsonl."
        for rollback in rollbacks
    ]
    steps = [f"{record['step']:.0f}" for record in metrics if record.get("alarms")]
    return [*notes, f"An alarm was on after steps {', '.join(steps)}."] if steps else notes


def _curve(metrics: Sequence[Mapping[str, float]], name: str, title: str, unit: str, key: str) -> Chart | None:
    records = [(record["step"], record[name]) for record in metrics if name in record and "step" in record]
    if not records:
        return None
    steps, values = zip(*records, strict=True)
    window = 1 if name in _EXACT else max(1, len(values) // 8 * 2 + 1)
    series = [Series(title, key, list(map(Point, steps, smoothed(values, window))), markers=False)]
    if window > 1:
        series.insert(0, Series(title, key, list(map(Point, steps, values)), markers=False, faint=True))
    y = share_axis(unit) if name in ("em", "search_again") else fitted_axis(unit, values)
    if name in _SHARES:
        y = replace(y, form=percent)
    return Chart(title, unit, series, fitted_axis("training step", steps), y, SMALL)


def choose_pairs(evaluation: Evaluation, folder: Path) -> list[Pair]:
    """A few questions that show what was learnt, and one that still fails; the first of each kind in dataset order.

    Args:
        evaluation: results of the agents `before` and `after`.
        folder: the evaluation's output folder, which contains the transcripts.
    """
    pairs: list[Pair] = []
    shown: set[Any] = set()
    for level, reason, fits in _KINDS:
        cells = [evaluation.find(agent, level) for agent in ("before", "after")]
        files = [transcript_path(folder, cell.key) for cell in cells if cell is not None]
        if len(files) < 2 or not all(file.exists() for file in files):
            continue
        before, after = ({r["extra"].get("index"): r for r in read_transcripts(file)} for file in files)
        for index in sorted(before.keys() & after.keys() - shown):
            if fits(before[index], after[index]):
                shown.add(index)
                pairs.append(Pair(reason, before[index], after[index]))
                break
    return pairs


def choose_stages(file: Path) -> list[Pair]:
    """Episodes of a run's own transcripts, early and late, for a run that no evaluation has compared.

    Where it has held-out questions, the pairs are questions of the first and of the last evaluation, chosen as in
    `choose_pairs`; otherwise they are the first episodes of the first and of the last step with transcripts.

    Args:
        file: the run's `transcripts.jsonl`; it may be missing.
    """
    if not file.exists():
        return []
    trained: dict[int, list[Mapping[str, Any]]] = {}
    held_out: dict[int, list[Mapping[str, Any]]] = {}
    for record in read_transcripts(file):
        if record["scores"] is not None:
            by_step = held_out if record["extra"].get("held_out") else trained
            by_step.setdefault(record["extra"].get("step", 0), []).append(record)
    if len(held_out) > 1:
        first, last = min(held_out), max(held_out)
        headings = (f"After step {first}" if first else "Before training", f"After step {last}")
        return _held_out_pairs(held_out[first], held_out[last], headings)
    if len(trained) < 2:
        return []
    first, last = min(trained), max(trained)
    pairs = zip(trained[first][:_STAGES], trained[last][:_STAGES], strict=False)
    reason = "Sampled for training, at different questions."
    return [Pair(reason, early, late, (f"In step {first}", f"In step {last}")) for early, late in pairs]


def _held_out_pairs(
    early: Sequence[Mapping[str, Any]], late: Sequence[Mapping[str, Any]], headings: tuple[str, str]
) -> list[Pair]:
    at = {(record["question"]["id"], record["noise_level"]): record for record in late}
    both = [(old, new) for old in early if (new := at.get((old["question"]["id"], old["noise_level"])))]
    pairs: list[Pair] = []
    shown: set[Any] = set()
    for reason, fits in _STAGE_KINDS:
        for old, new in both:
            if old["question"]["id"] not in shown and fits(old, new):
                shown.add(old["question"]["id"])
                pairs.append(Pair(f"{reason} (noise {old['noise_level']:g}).", old, new, headings))
                break
    return pairs


def _right(record: Mapping[str, Any]) -> bool:
    return bool(record["scores"]["em"] == 1.0)


def _misled_first(record: Mapping[str, Any]) -> bool:
    """Whether the first search was noisy and another one followed."""
    searches = [turn for turn in record["turns"] if turn["action"] == "search" and turn["documents"]]
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
_STAGES = 2
"""Pairs of episodes sampled for training."""
_STAGE_KINDS = (
    (
        "A held-out question whose first documents mislead, answered after another search",
        lambda old, new: _right(new) and not _right(old) and _misled_first(new),
    ),
    ("A held-out question that only training made answerable", lambda old, new: _right(new) and not _right(old)),
    ("A held-out question that it lost", lambda old, new: _right(old) and not _right(new)),
    ("A held-out question that it gets wrong", lambda old, new: not _right(new)),
    ("A held-out question that it gets right", lambda old, new: _right(new)),
)
"""What to show, with at most one question each."""
