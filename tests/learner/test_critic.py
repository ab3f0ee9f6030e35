from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_objective import make_samples

from zerosearch_agents.config.algorithms import AlgorithmConfig, CriticConfig
from zerosearch_agents.config.train import OptimizerConfig, RolloutConfig, TrainConfig, read_config
from zerosearch_agents.forward.batch import make_micro_batch
from zerosearch_agents.processes.workers import Workers, start_workers
from zerosearch_agents.runs.checkpoint import load_latest
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training.critic import critic_rate, make_critic, split_weights, token_values, with_critic
from zerosearch_agents.training.run_files import learner_weights
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.errors import CheckpointError

TIMES = {"seconds", "tokens_per_second", "rollout_seconds", "update_seconds"}
PPO = AlgorithmConfig(advantage="gae", minibatches=2, kl_coefficient=0.01, kl_in="reward", kl_estimator="k1")
FEW = RolloutConfig(prompts=2, group_size=3, slots=6)
TRUNKS = pytest.mark.parametrize("trunk", ["separate", "shared"])


def ppo_config(folder, trunk="separate", **changes) -> TrainConfig:
    critic = CriticConfig(trunk=trunk, **changes.pop("critic", {}))
    return tiny.tiny_train_config(folder, **({"algorithm": PPO, "critic": critic} | changes))


def everything(learner):
    """The weights of policy and critic."""
    weights = with_critic(learner_weights(learner), learner.critic)
    return {name: value.clone() for name, value in weights.items()}


def checkpoint_of(config):
    path, _, weights, optimizer = load_latest(Path(config.output) / "checkpoints")
    return path, weights, optimizer


def same(one, other):
    """Whether two trees of tensors are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@TRUNKS
def test_a_new_critic_says_zero_everywhere_and_has_only_what_it_needs(trunk):
    policy = tiny.tiny_policy()
    config = TrainConfig(algorithm=PPO, critic=CriticConfig(trunk=trunk))
    critic = make_critic(policy, config)
    batch = make_micro_batch(make_samples(values=True))
    hidden = torch.randn(len(batch.targets_N), 32)
    values = token_values(critic, batch, hidden)
    assert values.shape == batch.targets_N.shape
    assert values.abs().max() == 0
    parameters = {name: p.numel() for name, p in critic.module.named_parameters()}
    of_policy = sum(p.numel() for p in policy.model.parameters())
    vocabulary = policy.model.get_output_embeddings().weight.numel()
    assert sum(parameters.values()) == (33 if trunk == "shared" else of_policy - vocabulary + 33)
    theirs = {parameter.data_ptr() for parameter in policy.model.parameters()}
    assert all(parameter.data_ptr() not in theirs for parameter in critic.module.parameters())
    assert make_critic(policy, TrainConfig()) is None


def test_values_are_read_before_each_sampled_token():
    """A value must not know the token that it is the baseline of."""
    policy = tiny.tiny_policy()
    critic = make_critic(policy, TrainConfig(algorithm=PPO))
    with torch.no_grad():
        critic.head.weight.normal_()
    samples = make_samples(values=True)
    first = token_values(critic, make_micro_batch(samples[:1]), None)
    ids = samples[0].rollout.token_ids.copy()
    last = int(np.flatnonzero(samples[0].rollout.loss_mask)[-1])
    ids[last] = (ids[last] + 7) % 260
    changed = replace(samples[0], rollout=replace(samples[0].rollout, token_ids=ids))
    torch.testing.assert_close(token_values(critic, make_micro_batch([changed]), None), first)


def test_the_two_halves_of_a_checkpoint():
    critic = make_critic(tiny.tiny_policy(), TrainConfig(algorithm=PPO, critic=CriticConfig(trunk="shared")))
    both = with_critic({"a": torch.ones(2)}, critic)
    assert set(both) == {"a", "critic.weight", "critic.bias"}
    policy, own = split_weights(both)
    assert set(policy) == {"a"}
    assert same(own, critic.weights())
    assert with_critic({"a": torch.ones(2)}, None).keys() == {"a"}


def test_the_critics_rate_follows_the_of_policy_course():
    config = TrainConfig(optimizer=OptimizerConfig(learning_rate=1e-3), critic=CriticConfig(learning_rate=1e-2))
    assert critic_rate(config, 5e-4) == pytest.approx(5e-3)
    assert critic_rate(TrainConfig(), 5e-4) == 5e-4


@pytest.mark.slow
@TRUNKS
def test_in_the_warm_up_the_critic_learns_and_nothing_else_changes(tmp_path, trunk):
    """The policy stays, so the same step gives the same rollouts, and the critic comes to know what they earn."""
    config = ppo_config(tmp_path, trunk, critic={"warmup_steps": 1, "learning_rate": 1e-2}, seed=3)
    learner = build_learner(config, Workers(), tiny.tiny_dataset())
    before = everything(learner)
    metrics, groups = zip(*(train_step(learner, 0) for _ in range(7)), strict=True)
    after = everything(learner)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("critic.") for name in changed)
    assert len({step["reward"] for step in metrics}) == 1
    assert metrics[0]["value"] == 0
    rollouts = [rollout for group in groups[0] for rollout in group]
    # every token has a value, so a long rollout counts for more in the mean of the values
    earned = np.average([r.scores.reward for r in rollouts], weights=[r.sampled_tokens for r in rollouts])
    earned -= metrics[0]["kl_penalty"]
    assert earned > 0.2
    assert metrics[-1]["value"] == pytest.approx(earned, abs=0.05)
    assert metrics[-1]["explained_variance"] > 0.02
    assert metrics[-1]["value_loss"] < metrics[0]["value_loss"]
    train_step(learner, 1)
    assert any(not torch.equal(after[n], v) for n, v in everything(learner).items() if not n.startswith("critic."))


@pytest.mark.slow
@TRUNKS
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, trunk):
    whole = ppo_config(tmp_path, trunk, steps=2, rollout=FEW)
    train(whole, dataset=tiny.tiny_dataset())
    parts = replace(whole, output=str(tmp_path / "parts"))
    stopped = train(parts, dataset=tiny.tiny_dataset(), callback=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert stopped.step == 1
    train(parts, dataset=tiny.tiny_dataset(), resume=True)
    (_, weights, optimizer), (_, other_weights, other_optimizer) = checkpoint_of(whole), checkpoint_of(parts)
    assert any(name.startswith("critic.") for name in weights)
    assert same(weights, other_weights)
    assert same(optimizer, other_optimizer)
    assert optimizer["critic"]["state"]
    records, others = (read_metrics(Path(config.output) / "metrics.jsonl") for config in (whole, parts))
    for record, other in zip(records, others, strict=True):
        assert {k: v for k, v in record.items() if k not in TIMES} == {k: v for k, v in other.items() if k not in TIMES}


@pytest.mark.slow
def test_resuming_with_another_critic(tmp_path):
    config = ppo_config(tmp_path, steps=1, rollout=FEW)
    train(config, dataset=tiny.tiny_dataset())
    other = replace(config, critic=CriticConfig(trunk="shared"))
    with pytest.raises(CheckpointError, match=r"critic\.trunk: 'separate' -> 'shared'"):
        train(other, dataset=tiny.tiny_dataset(), resume=True)
    with pytest.raises(CheckpointError, match="holds a critic of another shape"):
        train(other, dataset=tiny.tiny_dataset(), resume=True, force=True)
    without = replace(config, steps=2, algorithm=AlgorithmConfig())
    assert train(without, dataset=tiny.tiny_dataset(), resume=True, force=True).step == 2
    again = replace(config, steps=3)  # the critic starts again: the last checkpoint has none
    assert train(again, dataset=tiny.tiny_dataset(), resume=True, force=True).step == 3
    assert read_config(Path(config.output) / "config.toml") == again


def step_gradients(learner):
    """One step with every gradient that reached an optimizer: those of the policy and of the critic."""
    gradients = []
    for owner in (learner, learner.critic):
        original = owner.optimizer.step
        owner.optimizer.step = lambda owner=owner, original=original: (
            gradients.append(owner.gradient.clone()),
            original(),
        )
    train_step(learner, 0)
    return gradients


@pytest.mark.slow
@TRUNKS
def test_micro_batches_and_slots_change_no_gradient(tmp_path, trunk):
    results = [
        step_gradients(
            build_learner(
                ppo_config(
                    tmp_path,
                    trunk,
                    optimizer=OptimizerConfig(micro_batch_tokens=tokens, warmup_steps=0),
                    rollout=replace(FEW, slots=slots),
                ),
                Workers(),
                tiny.tiny_dataset(),
            )
        )
        for tokens, slots in ((100_000, 6), (1, 2))
    ]
    assert len(results[0]) == len(results[1]) == 4
    assert all(gradient.norm() > 1e-4 for gradient in results[0])
    for one, other in zip(*(result[:2] for result in results), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def one_step(workers, config):
    """The weights after one step; runs in both workers."""
    learner = build_learner(config, workers, tiny.tiny_dataset())
    train_step(learner, 0)
    return everything(learner)


@pytest.mark.slow
def test_two_workers_train_the_critic_that_one_trains(tmp_path):
    config = ppo_config(tmp_path, steps=1)
    with start_workers(2, one_step, config) as workers:
        together = one_step(workers, config)
    alone = one_step(Workers(), config)
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-4, rtol=0)
