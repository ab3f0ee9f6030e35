"""Advantage estimators: from the rewards of a step to the advantage of each sampled token.

Outcome estimators are pure functions `(rewards_N, groups_N) -> advantages_N` with one number per rollout, which applies
to all its sampled tokens. Rollouts with the same number in `groups_N` answer the same question. Token estimators
(`reinforce_plus_plus`, `gae`) take the rewards of a rollout's sampled tokens, `_n`, in order.

Prompt and document tokens are not in these vectors. They are not actions, so they get no advantage and are not counted
when rewards are discounted. The caller leaves out rollouts that are excluded from the loss (a failed search engine), so
they do not affect any mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.errors import unknown_name

Advantage = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]

EPSILON = 1e-4
"""Added to a standard deviation before dividing by it: a group of equal rewards has advantage 0, not 0 / 0."""


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
    """A_i = r_i - mean(r of the batch): REINFORCE with the batch mean as its baseline; groups are ignored.

    Source: Williams, "Simple Statistical Gradient-Following Algorithms", 1992, section 4 (reinforcement baseline).
    """
    return rewards_N - rewards_N.mean() if rewards_N.size else rewards_N


def reinforce_no_baseline(rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """A_i = r_i: plain REINFORCE; unbiased, highest variance. With rewards of 0 and 1 no token is ever discouraged.

    Source: Williams, "Simple Statistical Gradient-Following Algorithms", 1992, section 4 (baseline 0).
    """
    return rewards_N.copy()


ADVANTAGES: dict[str, Advantage] = {
    "grpo": grpo,
    "dr-grpo": dr_grpo,
    "rloo": rloo,
    "reinforce": reinforce,
    "reinforce-no-baseline": reinforce_no_baseline,
}
"""The outcome estimators by name."""


def get_advantage(name: str) -> Advantage:
    """The outcome estimator called `name`.

    Raises:
        ConfigError: there is no such estimator; the message suggests the nearest name.
    """
    if name not in ADVANTAGES:
        raise unknown_name("advantage", name, ADVANTAGES)
    return ADVANTAGES[name]


def token_rewards(reward: float, penalties_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """r_t = -penalty_t, plus the rollout's reward at its last sampled token.

    Args:
        reward: the rollout's reward.
        penalties_n: subtracted at each sampled token: kl_coefficient times the KL estimate, or zeros.
    """
    rewards_n = -penalties_n
    rewards_n[-1] += reward
    return rewards_n


def returns_to_go(rewards_n: NDArray[np.float64], gamma: float = 1.0) -> NDArray[np.float64]:
    """G_t = r_t + gamma * G_(t+1) over the sampled tokens of one rollout, G = 0 after the last."""
    returns_n = np.empty_like(rewards_n)
    following = 0.0
    for place in range(len(rewards_n) - 1, -1, -1):
        following = rewards_n[place] + gamma * following
        returns_n[place] = following
    return returns_n


def normalize(parts: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """(x - mean) / (std + 1e-4) over all tokens of all rollouts together; std with n - 1, 0 for a single token."""
    if not parts:
        return []
    everything = np.concatenate(parts)
    std = everything.std(ddof=1) if len(everything) > 1 else 0.0
    return [(part - everything.mean()) / (std + EPSILON) for part in parts]


def reinforce_plus_plus(rewards: Sequence[NDArray[np.float64]], gamma: float = 1.0) -> list[NDArray[np.float64]]:
    """A_t = (G_t - mean(G)) / (std(G) + 1e-4), mean and std over all sampled tokens of the batch; groups are ignored.

    For "reinforce++-baseline" the caller subtracts the group's mean from the rewards first.

    Source: Hu et al., "REINFORCE++", arXiv 2501.03262, section 3: A_t = r - beta * sum of KL from t on, normalised over
    the global batch; its variant "w/ baseline" subtracts the group's mean reward first.

    Args:
        rewards: rewards of the sampled tokens of each rollout (`token_rewards`).
        gamma: discount per sampled token; the paper uses 1.
    """
    return normalize([returns_to_go(rewards_n, gamma) for rewards_n in rewards])


def gae(
    rewards_n: NDArray[np.float64], values_n: NDArray[np.float64], gamma: float, lambda_: float
) -> NDArray[np.float64]:
    """A_t = delta_t + gamma * lambda * A_(t+1) with delta_t = r_t + gamma * V_(t+1) - V_t.

    t + 1 is the next token *that the policy sampled*: documents in between are part of the transition, so gamma and
    lambda are not applied for them. V is 0 after the last token, however the episode ended, since no reward follows.
    The critic's targets are the lambda-returns, `gae(...) + values_n`.

    Source: Schulman et al., "High-Dimensional Continuous Control Using GAE", arXiv 1506.02438, equations 11, 16.

    Args:
        rewards_n: rewards of the sampled tokens of one rollout (`token_rewards`).
        values_n: the critic's value before each of them was sampled.
        gamma: discount per sampled token, in [0, 1].
        lambda_: in [0, 1]; 1 gives the returns minus the values, 0 gives delta_t.
    """
    following_n = np.append(values_n[1:], 0.0)
    return returns_to_go(rewards_n + gamma * following_n - values_n, gamma * lambda_)


def _group_statistics(
    rewards_N: NDArray[np.float64], groups_N: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean, standard deviation (n - 1; 0 in a group of one) and size of each rollout's group, each of shape `(N,)`."""
    _, inverse_N, size_G = np.unique(groups_N, return_inverse=True, return_counts=True)
    mean_G = np.bincount(inverse_N, weights=rewards_N, minlength=len(size_G)) / np.maximum(size_G, 1)
    square_N = (rewards_N - mean_G[inverse_N]) ** 2
    variance_G = np.bincount(inverse_N, weights=square_N, minlength=len(size_G)) / np.maximum(size_G - 1, 1)
    return mean_G[inverse_N], np.sqrt(variance_G)[inverse_N], size_G[inverse_N]
