"""The metrics of a step computed from its episodes, and `metrics.jsonl`.

`docs/metrics.md` defines every metric with its formula; a metric that is undefined at a step is left out.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .loggers import Logger

if TYPE_CHECKING:
    from ..rollouts.rollout import Rollout  # imports torch, which readers of `metrics.jsonl` do not need

_log = logging.getLogger(__name__)

BEST_METRIC = "held_out_em"
"""The best policy is the one for which this is highest: the exact match, averaged over the noise levels."""
_SCORES = ("em", "f1", "subem", "em_unicode", "f1_unicode", "misled", "abstained", "hallucinated")
_ENDS = {"answered": "answer", "out_of_turns": "max_turns", "context_limit": "context_limit"}
"""Metric -> the stop reason of which it is the share."""


def rollout_metrics(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    """The metrics of a step computed from its episodes; episodes with a failed search engine count only as failures."""
    everything = [rollout for group in groups for rollout in group]
    valid = [rollout for rollout in everything if rollout.stop_reason != "engine_error"]
    metrics = {"engine_failures": float(len(everything) - len(valid))}
    if not valid:
        return metrics
    rewards = np.array([rollout.scores.reward for rollout in valid])
    turns = sum(rollout.turns for rollout in valid)
    searches = sum(rollout.scores.searches for rollout in valid)
    noisy = sum(rollout.noisy_searches for rollout in valid)
    by_group = [
        [rollout.scores.reward for rollout in group if rollout.stop_reason != "engine_error"] for group in groups
    ]
    metrics |= {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "group_reward_std": _mean([float(np.std(rewards_g)) for rewards_g in by_group if rewards_g]),
        **{name: _mean([getattr(rollout.scores, name) for rollout in valid]) for name in _SCORES},
        **_additional(valid),
        "searches": searches / len(valid),
        "turns": turns / len(valid),
        "invalid_rate": sum(rollout.invalid_turns for rollout in valid) / max(turns, 1),
        **{name: _mean([rollout.stop_reason == reason for rollout in valid]) for name, reason in _ENDS.items()},
        "groups_without_signal": _mean([len(set(rewards_g)) < 2 for rewards_g in by_group]),
        "episode_tokens": _mean([len(rollout.token_ids) for rollout in valid]),
        "sampled_tokens": _mean([rollout.sampled_tokens for rollout in valid]),
        "turn_tokens": sum(rollout.sampled_tokens for rollout in valid) / max(turns, 1),
    }
    if searches:
        metrics["noisy"] = noisy / searches
        metrics["answer_in_documents"] = sum(rollout.answered_searches for rollout in valid) / searches
    if noisy:
        metrics["search_again"] = sum(rollout.searches_after_noise for rollout in valid) / noisy
    return metrics


def _additional(valid: Sequence[Rollout]) -> dict[str, float]:
    """Means of the additional scores over the episodes in which they have a value, and the number of the others."""
    values: dict[str, list[float]] = {}
    for rollout in valid:
        for name, value in rollout.scores.extra:
            values.setdefault(name, []).extend([] if value is None else [value])
    means = {f"score_{name}": _mean(known) for name, known in values.items() if known}
    missing = {f"score_{name}_missing": float(len(valid) - len(v)) for name, v in values.items() if len(v) < len(valid)}
    return means | missing


def staleness_metrics(trained: Sequence[Rollout], step: int) -> dict[str, float]:
    """The age of the weights with which a step's trained rollouts were sampled.

    Args:
        trained: the rollouts used for training.
        step: the 0-based step, which is the version of the weights being trained.
    """
    ages = [step - version for rollout in trained for version in rollout.weight_versions]
    return {"staleness": _mean(ages), "staleness_max": float(max(ages))} if ages else {}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def recorded(step: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's metrics as written to the file: rounded to six digits, without values that are not finite."""
    finite = {name: float(f"{value:.6g}") for name, value in metrics.items() if math.isfinite(value)}
    return {"step": step, **finite}


def best_evaluation(history: Iterable[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The record with the highest `BEST_METRIC`, the first of several; None without evaluations."""
    return max((record for record in history if BEST_METRIC in record), key=itemgetter(BEST_METRIC), default=None)


class MetricsLog:
    """Appends one JSON object per step to `metrics.jsonl`, and passes it on to other loggers.

    Args:
        path: the JSONL file.
        others: loggers that receive the same metrics; closed together with this one.
        keep: bytes of an existing file to keep; the rest belongs to steps that will be repeated.
    """

    def __init__(self, path: Path, *, others: Sequence[Logger] = (), keep: int = 0) -> None:
        path.touch()
        os.truncate(path, min(keep, path.stat().st_size))
        # unbuffered: otherwise data that a full disk refused would be written again when the run ends
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")  # the file was cut since the checkpoint
        self._others = others

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a finished step (1-based).

        Raises:
            OSError: the file cannot be written.
        """
        record = recorded(step, metrics)
        line = memoryview((json.dumps(record) + "\n").encode())
        while line:
            line = line[self._file.write(line) :]
        for other in self._others:
            other.write(step, {name: value for name, value in record.items() if name != "step"})

    def sync(self) -> int:
        """Syncs everything written to disk; returns the size of the file in bytes."""
        os.fsync(self._file.fileno())
        for other in self._others:
            other.flush()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        for other in self._others:
            other.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Reads the records of a `metrics.jsonl`.

    An incomplete last line is ignored. Damaged lines are left out, with a warning: a page or a resumed run can do
    without some steps.
    """
    records, damaged = [], []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n")[:-1], 1):
        record = _metrics_record(line)
        if record is None:
            damaged.append(number)
        else:
            records.append(record)
    if damaged:
        lines = "1 damaged line is" if len(damaged) == 1 else f"{len(damaged)} damaged lines are"
        _log.warning("%s: %s left out, the first is line %d", path, lines, damaged[0])
    return records


def _metrics_record(line: bytes) -> dict[str, float] | None:
    """The metrics in a line; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, or not text
        return None
    numbers = isinstance(record, dict) and all(type(value) in (int, float) for value in record.values())
    return record if numbers and type(record.get("step")) is int else None
