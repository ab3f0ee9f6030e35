from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from zerosearch_agents.config.train import DataConfig, EnvironmentConfig, RolloutConfig
from zerosearch_agents.rollouts.rollout import Rollout
from zerosearch_agents.runs.advice import describe_first_step, no_update_warning
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training.trainer import train
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.types import Scores, StopReason

IDLE = {"updates": 0.0, "skipped_updates": 0.0, "reward": 0.0, "reward_std": 0.0, "invalid_rate": 0.1}


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        ({"invalid_rate": 0.97}, ("Every reward is 0; 97 % of turns", "does not know the format", "zerosearch sft")),
        ({}, ("Every reward is 0.", "too hard", "zerosearch demos")),
        ({"reward": 0.4, "reward_std": 0.5}, ("in every group all rewards are equal", "larger groups", "now 8")),
        ({"reward": 1.0}, ("Every reward is 1.", "too easy")),
        ({"reward": 0.2, "reward_std": 0.4, "context_limit": 0.6}, ("60 % of episodes", "rollout.context_tokens")),
    ],
)
def test_the_reason_and_the_remedy_are_named(metrics, parts):
    text = no_update_warning([IDLE | metrics] * 3, group_size=8)
    assert text is not None
    assert text.startswith("NO UPDATE IN 3 STEPS")
    assert all(part.lower() in text.lower() for part in parts), text


def test_failed_searches_are_named():
    failed = {"updates": 0.0, "engine_failures": 8.0}
    assert "every search failed" in (no_update_warning([failed] * 3, 8) or "").lower()


def test_it_is_said_once_for_each_series_of_steps():
    history = [IDLE] * 5 + [IDLE | {"updates": 2.0}] + [IDLE] * 4
    said = [end for end in range(len(history) + 1) if no_update_warning(history[:end], 4)]
    assert said == [3, 9]
    assert no_update_warning([IDLE | {"skipped_updates": 2.0}] * 3, 4) is None  # an alarm says this
    assert no_update_warning([{"held_out_em": 0.0}, *[IDLE] * 3], 4)


def _rollout(reward, tokens, *, searches=1, answered=0, invalid=0):
    same = dict.fromkeys(("em", "f1", "subem", "em_unicode", "f1_unicode", "reward"), reward)
    scores = Scores(**same, searches=searches, prediction=None, answers=("a",))
    mask = np.ones(tokens, dtype=np.bool_)
    return Rollout(
        mask.astype(np.int32), mask, mask.astype(np.float32), scores, StopReason.ANSWER, 0.0,
        turns=2, invalid_turns=invalid, noisy_searches=0, answered_searches=answered, searches_after_noise=0,
    )  # fmt: skip


def test_the_first_step_is_summed_up_before_it_is_trained_on():
    groups = [[_rollout(1.0, 100), _rollout(0.0, 300, invalid=1)], [_rollout(0.0, 200)] * 2]
    lines, warnings = describe_first_step(groups, context_tokens=512, seconds=45.0, steps=60)
    assert lines == [
        "first step, 4 episodes of 2 questions: reward 0.25, 1.00 searches per episode, 12 % of turns invalid",
        "groups with different rewards, the only ones to learn from: 1 of 2; an episode has 200 tokens on average, the "
        "longest 300 of at most 512",
        "sampling took 0:45: 60 steps take at least 45:00, and the updates come on top",
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith("NO ANSWER FOUND")
    assert describe_first_step([[_rollout(1.0, 9, answered=1)]], context_tokens=9, seconds=1, steps=1)[1] == []


def test_a_dataset_without_a_solvable_question_is_named():
    _, warnings = describe_first_step([[_rollout(0.0, 9, searches=0)] * 4], context_tokens=99, seconds=1, steps=1)
    assert [warning.partition(":")[0] for warning in warnings] == ["NO QUESTION SOLVED"]
    failed = replace(_rollout(0.0, 9), stop_reason=StopReason.ENGINE_ERROR, error="no route to host")
    lines, warnings = describe_first_step([[failed] * 4], context_tokens=99, seconds=1, steps=1)
    assert lines == []
    assert "every search failed in 4 episodes: no route to host" in warnings[0]


@pytest.mark.slow
def test_a_run_without_updates_says_so_after_three_steps_and_at_the_end(tmp_path, caplog):
    config = tiny.tiny_train_config(tmp_path, steps=4, rollout=RolloutConfig(prompts=1, group_size=1))
    dataset = tiny.tiny_dataset()
    never = replace(dataset, questions=[replace(question, answers=("zzz",)) for question in dataset.questions])
    with caplog.at_level(logging.WARNING):
        result = train(replace(config, algorithm=replace(config.algorithm, advantage="grpo")), dataset=never)
    assert result.updates == 0
    said = [record.message for record in caplog.records if "NO UPDATE" in record.message]
    assert len(said) == 1
    assert "0 updates were made in 4 steps" in caplog.text


@pytest.mark.slow
def test_one_question_per_step_needs_no_other_option(tmp_path):
    config = tiny.tiny_train_config(tmp_path, rollout=RolloutConfig(prompts=1, group_size=8))
    assert config.algorithm.minibatches == 2
    result = train(config, dataset=tiny.tiny_dataset())
    updates = [record["updates"] for record in read_metrics(Path(config.output) / "metrics.jsonl")]
    assert set(updates) <= {0.0, 1.0}
    assert result.updates == sum(updates) > 0


@pytest.mark.slow
def test_a_failed_start_does_not_block_the_next_one(tmp_path, monkeypatch):
    config = tiny.tiny_train_config(tmp_path, steps=1)
    with pytest.raises(DataError):
        train(replace(config, data=DataConfig(dataset=str(tmp_path / "missing.jsonl"))))
    with pytest.raises(ConfigError):
        train(replace(config, environment=EnvironmentConfig(search_engine="corpos")), dataset=tiny.tiny_dataset())
    with monkeypatch.context() as patch:

        def fail(*arguments):
            raise MemoryError

        patch.setattr("zerosearch_agents.training.trainer.sample_step", fail)
        with pytest.raises(MemoryError):  # after everything was built and recorded
            train(config, dataset=tiny.tiny_dataset())
    assert train(replace(config, seed=1), dataset=tiny.tiny_dataset()).step == 1
    with pytest.raises(ConfigError, match="already holds a run"):
        train(config, dataset=tiny.tiny_dataset())
