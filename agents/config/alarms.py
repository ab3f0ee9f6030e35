"""Options of the alarms: which training metrics are watched, their bounds, and the action an alarm takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from zerosearch_env.errors import ConfigError


@dataclass(frozen=True)
class AlarmConfig:
    """Bounds on metrics that announce a collapse; an unset bound is not watched."""

    action: Literal["off", "warn", "stop", "rollback"] = "warn"
    """What an alarm does: nothing, a line in the progress, the end of the run, a return to the last good checkpoint."""
    patience: int = 3
    """Steps in a row that a bound must be broken for."""
    reward_fraction: float | None = 0.5
    """Alarm when the reward's moving average falls below this fraction of its best."""
    reward_window: int = 5
    """Steps of that moving average."""
    invalid_rate_above: float | None = 0.5
    """Most turns without a valid action, as a share of turns."""
    mismatch_kl_above: float | None = 0.1
    """Most KL between sampler and learner, in nats a token. Watched from the first step."""
    skipped_updates_above: float | None = 0.0
    """Most updates of a step left out for a gradient that is not finite. Watched from the first step."""
    entropy_below: float | None = None
    """Least entropy, in nats."""
    entropy_above: float | None = None
    """Most entropy, in nats."""
    update_kl_above: float | None = None
    """Most KL between the policy at a step's last update and the one that sampled, in nats a token."""
    clip_fraction_above: float | None = None
    """Most tokens on which the clip acts, as a share of trained tokens."""
    group_reward_std_below: float | None = None
    """Least standard deviation of the reward within a group."""
    groups_without_signal_above: float | None = None
    """Most groups whose rewards are all the same, as a share of groups."""
    context_limit_above: float | None = None
    """Most episodes that outgrow the token budget, as a share of episodes."""
    answered_below: float | None = None
    """Least episodes that end with an answer, as a share of episodes."""
    turn_tokens_above: float | None = None
    """Most tokens sampled a turn, on average."""
    turn_tokens_below: float | None = None
    """Least tokens sampled a turn, on average."""
    episode_tokens_above: float | None = None
    """Most tokens an episode, on average."""
    max_rollbacks: int = 3
    """Rollbacks of a run; the next alarm stops it."""
    rollback_rate: float = 0.5
    """Each rollback multiplies the learning rate by this."""

    @property
    def ends_skipping(self) -> bool:
        """Whether an alarm ends a row of skipped updates, with everything saved."""
        return self.action in ("stop", "rollback") and self.skipped_updates_above is not None

    def __post_init__(self) -> None:
        for name, low in (("patience", 1), ("reward_window", 1), ("max_rollbacks", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"alarms.{name} must be {low} or more, got {getattr(self, name)!r}.")
        if self.reward_fraction is not None and not 0 <= self.reward_fraction <= 1:
            raise ConfigError(f"alarms.reward_fraction must be from 0 to 1, got {self.reward_fraction!r}.")
        if not 0 < self.rollback_rate <= 1:
            raise ConfigError(f"alarms.rollback_rate must be above 0 and at most 1, got {self.rollback_rate!r}.")
        for bound in BOUNDS:
            limit = getattr(self, bound.field)
            if limit is not None and not math.isfinite(limit):
                raise ConfigError(f"alarms.{bound.field} must be a finite number, got {limit!r}.")


@dataclass(frozen=True)
class Bound:
    """One bound of `AlarmConfig`."""

    field: str
    """Its name there: a metric and a side."""
    always: bool = False
    """Watched from the first step; else from the first step that keeps it."""

    @property
    def metric(self) -> str:
        """The metric that it bounds."""
        return self.field.rpartition("_")[0]

    def broken(self, value: float, limit: float) -> bool:
        """Whether a value lies on the wrong side."""
        return value < limit if self.field.endswith("_below") else value > limit


BOUNDS = (
    Bound("invalid_rate_above"),
    Bound("mismatch_kl_above", always=True),
    Bound("skipped_updates_above", always=True),
    Bound("entropy_below"),
    Bound("entropy_above"),
    Bound("update_kl_above"),
    Bound("clip_fraction_above"),
    Bound("group_reward_std_below"),
    Bound("groups_without_signal_above"),
    Bound("context_limit_above"),
    Bound("answered_below"),
    Bound("turn_tokens_above"),
    Bound("turn_tokens_below"),
    Bound("episode_tokens_above"),
)
"""Every bound but that of the reward, which is measured against the run's own past."""
