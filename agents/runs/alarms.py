"""What announces a collapse: bounds on the metrics of a run, and what to do when one stays broken.

    metrics of the steps so far -> alarms (pure) -> warn, stop, or roll back

An alarm is on when a bound has been broken for `patience` steps in a row. What a policy never did it cannot lose: most
bounds are watched from the first step that keeps them, so that a base model that does not know the format yet raises
no alarm. Two are watched from the start, because they are faults rather than collapses: `mismatch_kl_above` and
`skipped_updates_above`.
"""

from __future__ import annotations

from ..config.alarms import BOUNDS, AlarmConfig

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from zerosearch_env.errors import ConfigError
from zerosearch_env.randomness import mix

if TYPE_CHECKING:
    from ..config.train import TrainConfig

_RETRY = 5
"""Stream of the run's seed for what follows a rollback."""
LEAST_REWARD = 0.05
"""A best average reward below this is luck, and its loss no collapse."""








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
