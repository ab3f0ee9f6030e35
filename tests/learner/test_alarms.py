from __future__ import annotations

import math

import pytest
import tiny
from metrics_page import DOCUMENTED

from zerosearch_agents.config.alarms import BOUNDS, AlarmConfig
from zerosearch_agents.config.train import CriticConfig, OptimizerConfig, TrainConfig, parse_config
from zerosearch_agents.runs.alarms import after_rollbacks, find_alarms, last_good_step
from zerosearch_env.errors import ConfigError

QUIET = {bound.field: None for bound in BOUNDS} | {"reward_fraction": None}


def config(**values):
    return AlarmConfig(**(QUIET | values))


def history(metric, values):
    """Records of steps 1, 2, ...; None leaves the metric out."""
    return [{"step": i} | ({} if value is None else {metric: value}) for i, value in enumerate(values, start=1)]


def fields(alarms):
    return [alarm.field for alarm in alarms]


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.field)
def test_every_bound_raises_its_alarm_when_it_is_broken_for_long_enough(bound):
    assert bound.metric in DOCUMENTED
    good, bad = (1.0, 0.2) if bound.field.endswith("_below") else (0.2, 1.0)
    watched = config(patience=3, **{bound.field: 0.5})
    assert find_alarms(watched, history(bound.metric, [good, bad, bad])) == []
    (alarm,) = find_alarms(watched, history(bound.metric, [good, bad, bad, bad]))
    assert (alarm.field, alarm.value, alarm.limit, alarm.step, alarm.patience) == (bound.field, bad, 0.5, 4, 3)
    assert f"alarms.{bound.field}" in str(alarm)
    for others in ([good, bad, good, bad], [good, bad, None, bad, bad], [good, 0.5, 0.5, 0.5]):
        assert find_alarms(watched, history(bound.metric, others)) == []
    never_good = find_alarms(watched, history(bound.metric, [bad] * 5))
    assert fields(never_good) == ([bound.field] if bound.always else [])
    assert find_alarms(config(patience=3, action="off", **{bound.field: 0.5}), history(bound.metric, [bad] * 5)) == []


def test_the_reward_is_measured_against_its_own_best():
    watched = config(patience=2, reward_window=3, reward_fraction=0.5)
    rising = [0.1, 0.2, 0.4, 0.6, 0.6, 0.6]
    assert find_alarms(watched, history("reward", rising)) == []
    fallen = [*rising, 0.2, 0.1]  # averages 0.4667, 0.3: not below half of 0.6
    assert find_alarms(watched, history("reward", fallen)) == []
    (alarm,) = find_alarms(watched, history("reward", [*fallen, 0.0, 0.0]))
    assert alarm.value == pytest.approx(0.1 / 3)
    assert alarm.limit == pytest.approx(0.3)
    assert "moving average of reward" in str(alarm)
    # a step at which every search failed has no reward: it is no collapse
    assert find_alarms(watched, history("reward", [*rising, None, None, None])) == []
    luck = [0.04, 0.04, 0.04] + [0.0] * 6
    assert find_alarms(watched, history("reward", luck)) == []


def test_the_last_good_step_lies_before_everything_the_alarm_speaks_of():
    # records 5, 6, 7 are broken: record 4, of the weights after 3 steps, was good
    assert last_good_step(config(patience=3), 7) == 3
    assert last_good_step(config(patience=3, reward_fraction=0.5, reward_window=5), 12) == 4


def test_a_rollback_takes_another_seed_and_a_lower_rate():
    base = TrainConfig(optimizer=OptimizerConfig(learning_rate=0.4), critic=CriticConfig(learning_rate=0.8))
    assert after_rollbacks(base, 0) is base
    first, second = after_rollbacks(base, 1), after_rollbacks(base, 2)
    assert (first.optimizer.learning_rate, first.critic.learning_rate) == (0.2, 0.4)
    assert (second.optimizer.learning_rate, second.critic.learning_rate) == (0.1, 0.2)
    assert len({base.seed, first.seed, second.seed}) == 3
    assert after_rollbacks(TrainConfig(), 1).critic.learning_rate is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patience = 0", "alarms.patience must be a whole number of at least 1, got 0"),
        ("max_rollbacks = -1", "alarms.max_rollbacks must be a whole number of at least 0"),
        ("reward_fraction = 2", "alarms.reward_fraction must be a number of at least 0 and at most 1"),
        ("rollback_rate = 0", "alarms.rollback_rate must be a number above 0"),
        ("entropy_below = nan", "alarms.entropy_below must be a finite number"),
        ("action = 'halt'", "unknown alarms.action"),
        ("entropy = 1", "Did you mean 'alarms.entropy_"),
    ],
)
def test_wrong_values_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(f"[alarms]\n{text}")


def test_the_defaults_warn():
    defaults = AlarmConfig()
    assert defaults.action == "warn"
    assert fields(find_alarms(defaults, history("mismatch_kl", [math.inf] * 3))) == ["mismatch_kl_above"]
    assert tiny.TrainConfig().alarms == defaults
