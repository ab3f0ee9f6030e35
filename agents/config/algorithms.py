"""The training algorithm: its parts as options, and the named algorithms as presets over these parts.

A preset is data. The learner never looks at an algorithm's name; it reads the fields that the preset has set. Every
combination that `check_algorithm` accepts is a valid algorithm. `docs/algorithms.md` shows the presets as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from zerosearch_env.errors import ConfigError, unknown_name

AdvantageName = Literal[
    "grpo", "dr-grpo", "rloo", "reinforce", "reinforce-no-baseline", "reinforce++", "reinforce++-baseline", "gae"
]  # fmt: skip


@dataclass(frozen=True)
class AlgorithmConfig:
    """How rewards become a loss."""

    advantage: AdvantageName = "grpo"
    """How rewards become advantages (`advantages.py`); "gae" trains a critic, configured under `critic`."""
    policy_loss: Literal["clip", "cispo", "reinforce"] = "clip"
    """PPO's clipped objective, CISPO's clipped weight, or plain log-probability times advantage."""
    ratio: Literal["token", "sequence"] = "token"
    """Probability ratio per token, or one per rollout (GSPO: the geometric mean over its tokens)."""
    aggregation: Literal["tokens", "sequences", "constant"] = "tokens"
    """How rollouts of different lengths are weighted: token mean, sequence mean, or division by a constant length."""
    constant_length: int | None = None
    """Length that aggregation "constant" divides by, in tokens; unset: `context_tokens`."""
    minibatches: int = 2
    """Number of mini-batches into which a step's groups are split, at most one per group; each gives one optimizer
    update."""
    epochs: int = 1
    """Passes over the rollouts of a step."""
    clip_low: float = 0.2
    """How far the probability ratio may fall below 1; 1 means no lower bound."""
    clip_high: float = 0.2
    """How far the probability ratio may rise above 1."""
    dual_clip: float | None = None
    """Upper bound of the ratio for negative advantages (dual clip), above 1 + clip_high; unset: no bound."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus, which is subtracted from the loss. Above 0 it can make the entropy explode."""
    kl_coefficient: float = 0.0
    """Weight of the KL divergence from the initial policy; 0 needs no reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that KL: k2 or k3 in the loss (where the expected gradient of k1 is zero), k1 in the reward."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL goes: added to the loss, or subtracted from the reward of each sampled token."""
    gamma: float = 1.0
    """Discount per sampled token for "gae" and "reinforce++", in [0, 1]; document tokens do not discount."""
    gae_lambda: float = 0.95
    """Lambda of "gae", in [0, 1]: 1 uses full returns, 0 relies on the critic after one token."""
    dynamic_sampling_rounds: int = 0
    """Maximum extra sampling rounds per step, to replace groups in which all rewards are equal; 0: none."""
    mask_overlong: bool = False
    """Leave episodes that exceeded the token budget out of loss and means, as is always done for failed searches."""
    recompute_logprobs: bool = False
    """Compute the ratio against the learner's log-probabilities (one more forward pass) instead of the sampler's."""
    importance_sampling: Literal["token", "sequence"] = "token"
    """Importance weight between sampler and learner: per token, or one per rollout."""
    importance_cap: float = 2.0
    """Upper bound of that weight (truncated importance sampling); used with `recompute_logprobs`."""


@dataclass(frozen=True)
class CriticConfig:
    """The value function for `algorithm.advantage = "gae"`; ignored with other advantages."""

    trunk: Literal["separate", "shared"] = "separate"
    """A separate model that starts as a copy of the policy, or a value head on the policy's hidden states."""
    learning_rate: float | None = None
    """Peak learning rate of the critic's parameters, with the policy's schedule; unset: the policy's peak rate."""
    value_clip: float | None = 0.2
    """Clip range of a value around its estimate from before the step; unset: no clip."""
    value_coefficient: float = 0.5
    """Weight of the value loss relative to the policy loss; it matters when both share the trunk."""
    warmup_steps: int = 0
    """Number of first steps that update only the critic's parameters."""


_RUN_FIELDS = ("minibatches", "epochs", "recompute_logprobs", "importance_sampling", "importance_cap")
"""Fields that say how a run is executed, not which algorithm it uses: kept when an algorithm is applied."""

ALGORITHMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Schulman et al., arXiv 1707.06347 (clip); Ouyang et al., arXiv 2203.02155, appendix C (gamma, lambda, KL)
        "ppo": {
            "advantage": "gae", "gamma": 1.0, "gae_lambda": 0.95, "clip_low": 0.2, "clip_high": 0.2,
            "aggregation": "tokens", "kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.02,
        },
        # Williams, 1992: full returns, one strictly on-policy update
        "reinforce": {
            "advantage": "reinforce", "policy_loss": "reinforce", "aggregation": "constant", "minibatches": 1,
            "epochs": 1,
        },
        # Hu et al., arXiv 2501.03262: token-level KL in the reward, advantages normalised over the batch's tokens
        "reinforce++": {
            "advantage": "reinforce++", "clip_low": 0.2, "clip_high": 0.2, "aggregation": "tokens",
            "kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.001,
        },
        # Ahmadian et al., arXiv 2402.14740: the whole answer is one action, no clip, KL in the reward
        "rloo": {
            "advantage": "rloo", "policy_loss": "reinforce", "aggregation": "constant", "kl_in": "reward",
            "kl_estimator": "k1", "kl_coefficient": 0.05, "minibatches": 1, "epochs": 1,
        },
        # Shao et al., arXiv 2402.03300
        "grpo": {
            "advantage": "grpo", "clip_low": 0.2, "clip_high": 0.2, "aggregation": "sequences", "kl_in": "loss",
            "kl_estimator": "k3", "kl_coefficient": 0.04,
        },
        # Liu et al., arXiv 2503.20783
        "dr-grpo": {"advantage": "dr-grpo", "clip_low": 0.2, "clip_high": 0.2, "aggregation": "constant"},
        # Yu et al., arXiv 2503.14476
        "dapo": {
            "advantage": "grpo", "clip_low": 0.2, "clip_high": 0.28, "aggregation": "tokens",
            "dynamic_sampling_rounds": 9, "mask_overlong": True,
        },
        # Zheng et al., arXiv 2507.18071
        "gspo": {
            "advantage": "grpo", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequences",
        },
        # MiniMax, arXiv 2506.13585 (no lower bound); the upper bound is from Khatri et al., arXiv 2510.13786
        "cispo": {
            "advantage": "grpo", "policy_loss": "cispo", "clip_low": 1.0, "clip_high": 4.0, "aggregation": "tokens",
        },
    }
)  # fmt: skip
"""Fields of `AlgorithmConfig` that each named algorithm sets; all other fields that define it keep their defaults."""


def apply_algorithm(config: AlgorithmConfig, name: str) -> AlgorithmConfig:
    """Return `config` with the algorithm called `name`.

    Every field that defines an algorithm gets the preset's value or its default, so that nothing of a previous
    algorithm remains. The fields that say how the run is executed (mini-batches, epochs, recomputed log-probabilities
    and their importance weight) keep their values, unless the preset sets them.

    Raises:
        ConfigError: if there is no such algorithm; the message suggests the nearest name.
    """
    if name not in ALGORITHMS:
        raise unknown_name("algorithm", name, ALGORITHMS)
    run_fields = {field: getattr(config, field) for field in _RUN_FIELDS}
    return replace(AlgorithmConfig(), **(run_fields | dict(ALGORITHMS[name])))


def check_algorithm(config: AlgorithmConfig, group_size: int) -> None:
    """Raise `ConfigError` if parts do not fit together; the message says what to set instead."""
    if config.kl_coefficient > 0 and config.kl_in == "loss" and config.kl_estimator == "k1":
        raise ConfigError(
            'algorithm.kl_estimator "k1" must not go into the loss: its expected gradient is zero, so it would add '
            'noise without constraining the policy. Use "k2" or "k3", or set algorithm.kl_in to "reward".'
        )
    if config.kl_coefficient > 0 and config.kl_in == "reward" and config.kl_estimator != "k1":
        raise ConfigError(
            f'algorithm.kl_estimator "{config.kl_estimator}" must not go into the reward: its gradient '
            'there is not that of the divergence and can increase it. Use "k1", or set algorithm.kl_in to "loss".'
        )
    if config.policy_loss == "reinforce" and config.minibatches * config.epochs > 1:
        raise ConfigError(
            'algorithm.policy_loss "reinforce" does not correct for updates since sampling, so it needs '
            f"algorithm.minibatches and algorithm.epochs of 1, got {config.minibatches} and {config.epochs}. "
            'Set both to 1, or use "clip" or "cispo".'
        )
    if config.ratio == "sequence" and config.policy_loss == "reinforce":
        raise ConfigError('algorithm.ratio "sequence" has no meaning with policy_loss "reinforce", which has no ratio.')
    if config.ratio == "sequence" and config.aggregation != "sequences":
        raise ConfigError(
            'algorithm.ratio "sequence" needs algorithm.aggregation "sequences", got '
            f'"{config.aggregation}": the sequence ratio\'s objective is a mean over rollouts.'
        )
    if config.dual_clip is not None and config.policy_loss != "clip":
        raise ConfigError(f'algorithm.dual_clip needs algorithm.policy_loss "clip", got "{config.policy_loss}".')
    if config.dual_clip is not None and not config.dual_clip > 1.0 + config.clip_high:
        raise ConfigError(
            f"algorithm.dual_clip must be above 1 + algorithm.clip_high = {1.0 + config.clip_high:g}, "
            f"got {config.dual_clip!r}."
        )
    if config.dynamic_sampling_rounds and group_size < 2:
        raise ConfigError(
            "algorithm.dynamic_sampling_rounds needs rollout.group_size of 2 or more: "
            "the rewards in a group of one never differ."
        )
