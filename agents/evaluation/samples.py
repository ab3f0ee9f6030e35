"""What several samples per question show: pass@k and majority@k, as pure functions of one question's episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zerosearch_env.game.rewards import answer_key

from .statistics import Interval


@dataclass(frozen=True)
class SampleScores:
    """Exact match of several samples per question, over the questions of which all samples are finished."""

    mean: Interval
    """mean@k: the share of right samples, which is the EM of the summary."""
    passed: dict[int, Interval]
    """pass@j for j = 2, 4, 8, ... below k, and k: the probability that at least one of j samples is right."""
    majority: Interval
    """majority@k: EM of the answer that most samples give."""

    def named(self) -> dict[str, Interval]:
        """The figures by their names, such as `"mean@4"`, `"pass@2"`, `"pass@4"`, `"majority@4"`."""
        k = max(self.passed)
        passed = {f"pass@{j}": interval for j, interval in self.passed.items()}
        return {f"mean@{k}": self.mean, **passed, f"majority@{k}": self.majority}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: interval.as_dict() for name, interval in self.named().items()}


def pass_sizes(k: int) -> list[int]:
    """The numbers of samples that pass@j is reported for: 2, 4, 8, ... below k, and k."""
    return [*(2**power for power in range(1, k.bit_length()) if 2**power < k), k]


def pass_at(samples: int, right: int, k: int) -> float:
    """The probability that at least one of k samples is right, estimated without bias from n >= k samples.

    pass@k = 1 - C(n - c, k) / C(n, k) for n samples of which c are right (Chen et al., 2021, "Evaluating large language
    models trained on code", equation 1). The naive 1 - (1 - c / n)^k is too low.

    Args:
        samples: n, the number of samples of the question.
        right: c, how many of them are right, 0 <= c <= n.
        k: 1 <= k <= n.

    Raises:
        ValueError: the numbers do not fit.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"expected 0 <= right <= samples and 1 <= k <= samples, got {right=}, {samples=}, {k=}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority(answers: Iterable[tuple[str | None, float]]) -> float:
    """The EM of the answer that most samples of a question give.

    Answers that exact match does not tell apart (SQuAD's normalisation) are the same. Samples without an answer have no
    vote. If several answers have the most votes, the result is the mean of their EM: what choosing one of them at
    random scores on average. Without any vote it is 0.

    Args:
        answers: the prediction and the EM of each sample.
    """
    votes: dict[str, list[float]] = {}
    for prediction, em in answers:
        if key := answer_key(prediction or ""):
            votes.setdefault(key, []).append(em)
    most = max(map(len, votes.values()), default=0)
    winners = [ems[0] for ems in votes.values() if len(ems) == most]
    return sum(winners) / len(winners) if winners else 0.0
