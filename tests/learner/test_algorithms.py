from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
from metrics_page import DOCUMENTED

from zerosearch_agents.config.algorithms import ALGORITHMS, AlgorithmConfig, apply_algorithm
from zerosearch_agents.config.train import (
    OutputConfig,
    RolloutConfig,
    TrainConfig,
    dump_config,
    load_preset,
    parse_config,
    with_algorithm,
)
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training.cli import parse_command
from zerosearch_agents.training.trainer import train
from zerosearch_env.errors import ConfigError


def test_all_that_were_promised_are_there():
    assert set(ALGORITHMS) == set("ppo reinforce reinforce++ rloo grpo dr-grpo dapo gspo cispo".split())


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_each_is_a_valid_configuration_that_survives_toml(name):
    config = with_algorithm(load_preset("quickstart"), name)
    assert parse_config(dump_config(config)) == config
    for field, value in ALGORITHMS[name].items():
        assert getattr(config.algorithm, field) == value
    assert dataclasses.replace(config, algorithm=AlgorithmConfig()) == load_preset("quickstart")


def test_nothing_of_another_algorithm_stays_behind():
    for first in ALGORITHMS:
        for second in ALGORITHMS:
            start = dataclasses.replace(AlgorithmConfig(), minibatches=1, importance_cap=5.0)
            again = apply_algorithm(apply_algorithm(start, first), second)
            assert again == apply_algorithm(start, second), (first, second)
            assert again.importance_cap == 5.0


def test_values_of_the_papers():
    grpo, dapo, gspo, cispo, ppo = (
        apply_algorithm(AlgorithmConfig(), name) for name in ("grpo", "dapo", "gspo", "cispo", "ppo")
    )
    assert (grpo.kl_coefficient, grpo.kl_estimator, grpo.kl_in, grpo.aggregation) == (0.04, "k3", "loss", "sequences")
    assert (dapo.clip_low, dapo.clip_high, dapo.aggregation, dapo.kl_coefficient) == (0.2, 0.28, "tokens", 0.0)
    assert dapo.mask_overlong
    assert dapo.dynamic_sampling_rounds == 9
    assert (gspo.ratio, gspo.clip_low, gspo.clip_high) == ("sequence", 3e-4, 4e-4)
    assert (cispo.policy_loss, cispo.clip_low, cispo.clip_high) == ("cispo", 1.0, 4.0)
    assert (ppo.advantage, ppo.gamma, ppo.gae_lambda, ppo.kl_in, ppo.kl_estimator) == ("gae", 1.0, 0.95, "reward", "k1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_coefficient": 0.1, "kl_estimator": "k1"}, "its expected gradient is zero"),
        ({"kl_coefficient": 0.1, "kl_in": "reward"}, "must not go into the reward"),
        ({"policy_loss": "reinforce"}, "minibatches and algorithm.epochs of 1, got 2 and 1"),
        ({"policy_loss": "reinforce", "minibatches": 1, "ratio": "sequence"}, "has no ratio"),
        ({"ratio": "sequence"}, 'needs algorithm.aggregation "sequences", got "tokens"'),
        ({"dual_clip": 3.0, "policy_loss": "cispo"}, 'needs algorithm.policy_loss "clip"'),
        ({"dual_clip": 1.1}, "above 1 \\+ algorithm.clip_high = 1.2, got 1.1"),
        ({"gamma": 1.1}, "algorithm.gamma must be a number of at least 0 and at most 1"),
        ({"gae_lambda": -0.1}, "algorithm.gae_lambda must be a number of at least 0 and at most 1"),
        ({"entropy_coefficient": float("nan")}, "algorithm.entropy_coefficient must be a number of at least 0"),
        ({"constant_length": 0}, "algorithm.constant_length must be a number above 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(algorithm=AlgorithmConfig(**changes))


def test_dynamic_sampling_needs_groups():
    with pytest.raises(ConfigError, match="group_size of 2 or more"):
        TrainConfig(algorithm=AlgorithmConfig(dynamic_sampling_rounds=1), rollout=RolloutConfig(group_size=1))


def test_the_option_sets_the_fields_and_single_options_win():
    command = parse_command(["--preset", "tiny", "--algorithm", "dapo", "--algorithm.clip-high", "0.3"])
    expected = dataclasses.replace(apply_algorithm(AlgorithmConfig(), "dapo"), clip_high=0.3)
    assert command.config.algorithm == expected
    assert command.config.rollout == load_preset("tiny").rollout
    assert parse_command(["--algorithm=reinforce++"]).config.algorithm.kl_coefficient == 0.001
    with pytest.raises(ConfigError, match="Did you mean 'dr-grpo'"):
        parse_command(["--algorithm", "drgrpo"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_each_trains(name, tmp_path):
    rollout = RolloutConfig(prompts=3, group_size=3, slots=9, turn_tokens=4)
    files = OutputConfig(checkpoint_every=None, transcripts_every=None)
    config = with_algorithm(tiny.tiny_train_config(tmp_path, steps=2, rollout=rollout, files=files), name)
    result = train(config, dataset=tiny.tiny_dataset())
    assert result.step == 2
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert set().union(*metrics) <= set(DOCUMENTED)
    assert all(record["skipped_updates"] == 0 for record in metrics)
    assert sum(record["updates"] for record in metrics) >= 1
    assert ("value_loss" in metrics[0]) == (name == "ppo")
    assert ("kl_penalty" in metrics[0]) == (name in ("ppo", "rloo", "reinforce++"))
    assert ("kept_groups" in metrics[0]) == (name == "dapo")


def test_a_configuration_of_an_earlier_release_loads_as_what_it_was():
    """Written before there were presets, ratios and critics: every field that is new has the old behaviour."""
    text = """
        [algorithm]
        advantage = "grpo"
        aggregation = "tokens"
        minibatches = 2
        epochs = 1
        clip_low = 0.2
        clip_high = 0.2
        kl_coefficient = 0.001
        kl_estimator = "k3"
        recompute_logprobs = false
        importance_cap = 2.0
    """
    assert parse_config(text) == TrainConfig(algorithm=AlgorithmConfig(kl_coefficient=0.001))
    old = AlgorithmConfig()
    assert (old.policy_loss, old.ratio, old.kl_in, old.importance_sampling) == ("clip", "token", "loss", "token")
    assert (old.dual_clip, old.entropy_coefficient, old.dynamic_sampling_rounds, old.mask_overlong) == (
        None,
        0,
        0,
        False,
    )


def test_the_table_in_the_documentation_is_this_one():
    page = (Path(__file__).resolve().parents[2] / "docs" / "algorithms.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    table = {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in ALGORITHMS}
    assert set(table) == set(ALGORITHMS)
    for name, (advantage, ratio, clip, aggregation, kl, *_) in table.items():
        config = apply_algorithm(AlgorithmConfig(), name)
        assert advantage.startswith(f"`{config.advantage}`")
        assert ratio == ("none" if config.policy_loss == "reinforce" else config.ratio)
        bounds = f"{config.clip_low:g} / {config.clip_high:g}"
        assert {"reinforce": "none", "clip": bounds, "cispo": f"weight, {bounds}"}[config.policy_loss] == clip
        assert aggregation == f"`{config.aggregation}`"
        where = f"{config.kl_estimator} in the {config.kl_in}, {config.kl_coefficient:g}"
        assert kl == (where if config.kl_coefficient else "none")
