"""What announces a collapse: bounds on the metrics of a run, and what to do when one stays broken.

    metrics of the steps so far -> alarms (pure) -> warn, stop, or roll back

An alarm is on when a bound has been broken for `patience` steps in a row. What a policy never did it cannot lose: most
bounds are watched from the first step that keeps them, so that a base model that does not know the format yet raises
no alarm. Two are watched from the start, because they are faults rather than collapses: `mismatch_kl_above` and
`skipped_updates_above`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zerosearch_env.errors import ConfigError
from zerosearch_env.randomness import mix

if TYPE_CHECKING:
    from .config import TrainConfig

_RETRY = 5
"""Stream of the run's seed for what follows a rollback."""
LEAST_REWARD = 0.05
"""A best average reward below this is luck, and its loss no collapse."""


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


@dataclass(frozen=True)
class Alarm:
    """A bound that has been broken for long enough."""

    field: str
    """The bound: a field of `AlarmConfig`."""
    value: float
    """What was measured at the last step: the metric, or the moving average of the reward."""
    limit: float
    """What it should have kept to."""
    step: int
    """Steps finished when the alarm went on."""
    patience: int
    """For how many steps the bound has been broken."""

    def __str__(self) -> str:
        if self.field == "reward_fraction":
            what, side = "the moving average of reward", "below"
        else:
            metric, _, side = self.field.rpartition("_")
            what = metric
        return (
            f"{what} is {self.value:.4g}, {side} {self.limit:.4g} (alarms.{self.field}) "
            f"for {self.patience} steps, at step {self.step}"
        )


def find_alarms(config: AlarmConfig, history: Sequence[Mapping[str, float]]) -> list[Alarm]:
    """The alarms that are on after the last step of a history. Pure.

    A step at which a metric is undefined, and so left out, breaks the row.

    Args:
        config: the bounds.
        history: the metrics of every step so far, as `metrics.jsonl` has them, oldest first.
    """
    if config.action == "off" or len(history) < config.patience:
        return []
    step = int(history[-1].get("step", len(history)))
    alarms = []
    for bound in BOUNDS:
        limit = getattr(config, bound.field)
        if limit is None:
            continue
        last = [record.get(bound.metric) for record in history[-config.patience :]]
        if any(value is None or not bound.broken(value, limit) for value in last):
            continue
        before = (record.get(bound.metric) for record in history[: -config.patience])
        if bound.always or any(value is not None and not bound.broken(value, limit) for value in before):
            alarms.append(Alarm(bound.field, last[-1], limit, step, config.patience))  # type: ignore[arg-type]
    fall = _reward_alarm(config, history, step)
    return alarms if fall is None else [*alarms, fall]


def _reward_alarm(config: AlarmConfig, history: Sequence[Mapping[str, float]], step: int) -> Alarm | None:
    """The alarm of `reward_fraction`; a step without any reward (every search failed) is passed over."""
    if config.reward_fraction is None:
        return None
    rewards = [record["reward"] for record in history if "reward" in record]
    window = config.reward_window
    averages = [sum(rewards[end - window : end]) / window for end in range(window, len(rewards) + 1)]
    if len(averages) <= config.patience:
        return None
    best = max(averages[: -config.patience])
    limit = config.reward_fraction * best
    if best < LEAST_REWARD or any(average >= limit for average in averages[-config.patience :]):
        return None
    return Alarm("reward_fraction", averages[-1], limit, step, config.patience)


def last_good_step(config: AlarmConfig, step: int) -> int:
    """The newest step whose weights an alarm after `step` finished steps does not speak of; may be negative.

    The metrics of a step describe the weights that it began with. With a patience of P the bound was kept P steps ago,
    so the weights at the beginning of that step were good; a moving average over W steps reaches W - 1 further back.
    """
    return step - config.patience - 1 - (config.reward_window - 1 if config.reward_fraction is not None else 0)


def after_rollbacks(config: TrainConfig, rollbacks: int) -> TrainConfig:
    """The configuration that a run goes on with after some rollbacks: another seed, a lower learning rate.

    A pure function of the run's own configuration, so that a resumed run takes the same path.

    Args:
        config: the run's configuration.
        rollbacks: how many there have been.
    """
    if rollbacks == 0:
        return config
    factor = config.alarms.rollback_rate**rollbacks
    optimizer = replace(config.optimizer, learning_rate=config.optimizer.learning_rate * factor)
    critic = config.critic
    if critic.learning_rate is not None:  # unset: it follows the policy's
        critic = replace(critic, learning_rate=critic.learning_rate * factor)
    return replace(config, seed=mix(config.seed, _RETRY, rollbacks), optimizer=optimizer, critic=critic)
