"""Options of the alarms: which training metrics are watched, their bounds, and the action an alarm takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from zerosearch_env.checks import check_number, check_whole_number


@dataclass(frozen=True)
class AlarmConfig:
    """Bounds on metrics that detect a collapse; an unset bound is not checked."""

    action: Literal["off", "warn", "stop", "rollback"] = "warn"
    """Action of an alarm: nothing, print a warning, stop the run, or return to the last good checkpoint."""
    patience: int = 3
    """Number of consecutive steps that must violate a bound before the alarm fires."""
    reward_fraction: float | None = 0.5
    """Alarm when the moving average of the reward falls below this fraction of its best value."""
    reward_window: int = 5
    """Length of that moving average, in steps."""
    invalid_rate_above: float | None = 0.5
    """Maximum share of turns without a valid action."""
    mismatch_kl_above: float | None = 0.1
    """Maximum KL between sampler and learner, in nats per token. Checked from the first step."""
    skipped_updates_above: float | None = 0.0
    """Maximum updates per step skipped because the gradient is not finite. Checked from the first step."""
    entropy_below: float | None = None
    """Minimum entropy, in nats."""
    entropy_above: float | None = None
    """Maximum entropy, in nats."""
    update_kl_above: float | None = None
    """Maximum KL between the policy at a step's last update and the sampling policy, in nats per token."""
    clip_fraction_above: float | None = None
    """Maximum share of trained tokens that are clipped."""
    group_reward_std_below: float | None = None
    """Minimum standard deviation of the reward within a group."""
    groups_without_signal_above: float | None = None
    """Maximum share of groups in which all rewards are equal."""
    context_limit_above: float | None = None
    """Maximum share of episodes that exceed the token budget."""
    answered_below: float | None = None
    """Minimum share of episodes that end with an answer."""
    turn_tokens_above: float | None = None
    """Maximum mean number of tokens sampled per turn."""
    turn_tokens_below: float | None = None
    """Minimum mean number of tokens sampled per turn."""
    episode_tokens_above: float | None = None
    """Maximum mean number of tokens per episode."""
    max_rollbacks: int = 3
    """Maximum rollbacks per run; the next alarm stops it."""
    rollback_rate: float = 0.5
    """Each rollback multiplies the learning rate by this."""

    @property
    def ends_skipping(self) -> bool:
        """Whether an alarm ends the run or rolls it back when updates are skipped repeatedly."""
        return self.action in ("stop", "rollback") and self.skipped_updates_above is not None

    def __post_init__(self) -> None:
        for name, least in (("patience", 1), ("reward_window", 1), ("max_rollbacks", 0)):
            check_whole_number(f"alarms.{name}", getattr(self, name), least)
        if self.reward_fraction is not None:
            check_number("alarms.reward_fraction", self.reward_fraction, least=0, most=1)
        check_number("alarms.rollback_rate", self.rollback_rate, above=0, most=1)
        for bound in BOUNDS:
            if (limit := getattr(self, bound.field)) is not None:
                check_number(f"alarms.{bound.field}", limit)


@dataclass(frozen=True)
class Bound:
    """One bound of `AlarmConfig`."""

    field: str
    """Name of the field: a metric and "_above" or "_below"."""
    always: bool
    """True: checked from the first step. False: from the first step that satisfies it."""

    @property
    def metric(self) -> str:
        """The metric that is bounded."""
        return self.field.rpartition("_")[0]

    def broken(self, value: float, limit: float) -> bool:
        """Whether a value violates the bound."""
        return value < limit if self.field.endswith("_below") else value > limit


_ALWAYS = ("mismatch_kl_above", "skipped_updates_above")
BOUNDS = tuple(
    Bound(entry.name, always=entry.name in _ALWAYS)
    for entry in fields(AlarmConfig)
    if entry.name.endswith(("_above", "_below"))
)
"""All bounds except the one on the reward, which is relative to the run's own history."""
