"""Advantages: one number for each rollout from the rewards of its batch.

Pure functions `(rewards_N, groups_N) -> advantages_N`. `groups_N` says which rollouts answer the same question;
rollouts that are out of the loss (a failed search engine) are left out by the caller before, so that they count in
no mean. Every token which the policy sampled in a rollout gets the rollout's advantage.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.errors import unknown_name

Advantage = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]

EPSILON = 1e-4
"""Added to a standard deviation before it divides; a group of equal rewards then has advantage 0, not 0 / 0."""


def grpo(rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """A_i = (r_i - mean(r of i's group)) / (std(r of i's group) + 1e-4); std with n - 1, 0 in a group of one.

    Source: Shao et al., "DeepSeekMath", arXiv 2402.03300, section 4.1.2 (outcome supervision).
    """
    mean_N, std_N, _ = _group_statistics(rewards_N, groups_N)
    return (rewards_N - mean_N) / (std_N + EPSILON)


def dr_grpo(rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """A_i = r_i - mean(r of i's group).

    Source: Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783, section 3.2: dividing by the standard
    deviation favours questions that are nearly always or nearly never answered. Use it with `aggregation="constant"`.
    """
    return rewards_N - _group_statistics(rewards_N, groups_N)[0]


def rloo(rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """A_i = r_i - mean(r of the others of i's group) = n / (n - 1) * (r_i - mean(r of i's group)); 0 in a group of one.

    Source: Ahmadian et al., "Back to Basics", arXiv 2402.14740, section 3.2; Kool et al., 2019.
    """
    mean_N, _, size_N = _group_statistics(rewards_N, groups_N)
    return (rewards_N - mean_N) * size_N / np.maximum(size_N - 1, 1)


def reinforce(rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """A_i = r_i - mean(r of the batch): REINFORCE with the batch mean as its baseline; groups play no part.

    Source: Williams, "Simple Statistical Gradient-Following Algorithms", 1992, section 4 (reinforcement baseline).
    """
    return rewards_N - rewards_N.mean() if rewards_N.size else rewards_N


def reinforce_plus_plus(rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """A_i = (r_i - mean(r of the batch)) / (std(r of the batch) + 1e-4); std with n - 1, groups play no part.

    Source: Hu et al., "REINFORCE++", arXiv 2501.03262, section 3 (advantages normalised over the whole batch).
    """
    one_group_N = np.zeros_like(groups_N)
    return grpo(rewards_N, one_group_N)


ADVANTAGES: dict[str, Advantage] = {
    "grpo": grpo,
    "dr-grpo": dr_grpo,
    "rloo": rloo,
    "reinforce": reinforce,
    "reinforce++": reinforce_plus_plus,
}


def get_advantage(name: str) -> Advantage:
    """The function called `name`.

    Raises:
        ConfigError: when there is none; the message names the nearest one.
    """
    if name not in ADVANTAGES:
        raise unknown_name("advantage", name, ADVANTAGES)
    return ADVANTAGES[name]


def _group_statistics(
    rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean, standard deviation (n - 1; 0 in a group of one) and size of each rollout's group, each of shape `(N,)`."""
    _, inverse_N, size_G = np.unique(groups_N, return_inverse=True, return_counts=True)
    mean_G = np.bincount(inverse_N, weights=rewards_N, minlength=len(size_G)) / np.maximum(size_G, 1)
    square_N = (rewards_N - mean_G[inverse_N]) ** 2
    variance_G = np.bincount(inverse_N, weights=square_N, minlength=len(size_G)) / np.maximum(size_G - 1, 1)
    return mean_G[inverse_N], np.sqrt(variance_G)[inverse_N], size_G[inverse_N]
