"""Alarms: bounds on training metrics, and the action taken when one is violated for several steps.

    metrics of the steps so far -> alarms (pure) -> warn, stop, or roll back

An alarm is raised when a bound has been violated for `patience` consecutive steps. Most bounds apply only after the
first step that satisfies them, so a base model that does not know the format yet raises no alarm: a policy cannot lose
an ability it never had. Two bounds apply from the start, because they indicate faults rather than a collapse:
`mismatch_kl_above` and `skipped_updates_above`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zerosearch_env.randomness import mix

from ..config.alarms import BOUNDS, AlarmConfig

if TYPE_CHECKING:
    from ..config.train import TrainConfig

_RETRY = 5
"""Random stream of the run's seed, used after rollbacks."""
LEAST_REWARD = 0.05
"""If the best average reward is below this, it was luck, and losing it is not a collapse."""


@dataclass(frozen=True)
class Alarm:
    """A bound that has been violated for `patience` steps."""

    field: str
    """Name of the bound: a field of `AlarmConfig`."""
    value: float
    """Value at the last step: of the metric, or of the moving average of the reward."""
    limit: float
    """The limit that was violated."""
    step: int
    """Steps finished when the alarm was raised."""
    patience: int
    """Number of steps for which the bound has been violated."""

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
    """The alarms raised after the last step of a history. A pure function.

    A step at which a metric is undefined, and therefore missing, interrupts the series of violations.

    Args:
        config: the bounds and the patience.
        history: the metrics of all steps so far as in `metrics.jsonl`, oldest first.
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
    """The alarm of `reward_fraction`; steps without a reward (every search failed) are skipped."""
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
    """The newest step whose weights are still good when an alarm is raised after `step` steps; may be negative.

    The metrics of a step describe the weights at its beginning. With a patience of P, the bound was satisfied P steps
    ago, so the weights at the beginning of that step were good. A moving average over W steps goes back W - 1 more.
    """
    return step - config.patience - 1 - (config.reward_window - 1 if config.reward_fraction is not None else 0)


def after_rollbacks(config: TrainConfig, rollbacks: int) -> TrainConfig:
    """The configuration with which a run continues after rollbacks: another seed and a lower learning rate.

    A pure function of the run's configuration, so a resumed run takes the same path.

    Args:
        config: the run's configuration.
        rollbacks: number of rollbacks so far.
    """
    if rollbacks == 0:
        return config
    factor = config.alarms.rollback_rate**rollbacks
    optimizer = replace(config.optimizer, learning_rate=config.optimizer.learning_rate * factor)
    critic = config.critic
    if critic.learning_rate is not None:  # unset: it follows the policy's
        critic = replace(critic, learning_rate=critic.learning_rate * factor)
    return replace(config, seed=mix(config.seed, _RETRY, rollbacks), optimizer=optimizer, critic=critic)
