"""The whole loss of a micro-batch against a slow loop written from the formulas, on a real small model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from test_batch import make_rollout

from zerosearch_agents.config.algorithms import AlgorithmConfig, CriticConfig, apply_algorithm
from zerosearch_agents.config.train import TrainConfig
from zerosearch_agents.forward.batch import Sample, make_micro_batch
from zerosearch_agents.objective.losses import token_weights
from zerosearch_agents.training.critic import make_critic
from zerosearch_agents.training.loss import SUMS, loss_and_sums

LENGTHS = (30, 12, 21, 17)
CONSTANT = 50


def make_config(algorithm: AlgorithmConfig, **critic) -> TrainConfig:
    return TrainConfig(algorithm=algorithm, critic=CriticConfig(**critic))


def make_samples(seed: int = 0, *, values: bool = False) -> list[Sample]:
    """Rollouts with random old and reference log-probabilities, advantages a token, and values."""
    random = np.random.default_rng(seed)
    samples = []
    for index, length in enumerate(LENGTHS):
        rollout = make_rollout(length, index)
        count, sampled = rollout.sampled_tokens, rollout.logprobs[rollout.loss_mask]

        def near(scale, around=sampled, count=count):
            return (around + random.normal(0, scale, count)).astype(np.float32)

        samples.append(
            Sample(
                rollout,
                random.normal(size=count),
                0.0,
                old_logprobs=near(0.1),
                reference_logprobs=near(0.2),
                values=random.normal(size=count).astype(np.float32) if values else None,
                returns=random.normal(size=count) if values else None,
            )
        )
    return samples


def weigh(samples, aggregation):
    lengths = np.array([sample.rollout.sampled_tokens for sample in samples])
    weights = token_weights(lengths, aggregation, CONSTANT)
    return [replace(sample, weight=float(weight)) for sample, weight in zip(samples, weights, strict=True)]


def slow_loss(model, config, samples, values_of=None):
    """One rollout at a time, one token at a time, in the words of the papers."""
    algorithm, total = config.algorithm, torch.zeros((), dtype=torch.float32)
    tokens = sum(sample.rollout.sampled_tokens for sample in samples)
    for row, sample in enumerate(samples):
        ids = torch.from_numpy(sample.rollout.token_ids.astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0].float()
        places = np.flatnonzero(sample.rollout.loss_mask)
        count = len(places)
        scale = {
            "tokens": 1 / tokens,
            "sequences": 1 / (len(samples) * count),
            "constant": 1 / (len(samples) * CONSTANT),
        }
        weight = scale[algorithm.aggregation]
        distributions = [logits[place - 1].log_softmax(-1) for place in places]
        logprobs = [d[ids[place]] for d, place in zip(distributions, places, strict=True)]
        gaps = [logprob - float(old) for logprob, old in zip(logprobs, sample.old_logprobs, strict=True)]
        sampler = sample.rollout.logprobs[places]
        mismatch = [float(old) - float(s) for old, s in zip(sample.old_logprobs, sampler, strict=True)]
        for t in range(count):
            advantage = float(sample.advantage[t])
            ratio = gaps[t].exp()
            if algorithm.ratio == "sequence":  # GSPO-token: value of the sequence, gradient of the token
                ratio = math.exp(sum(g.item() for g in gaps) / count) * logprobs[t].exp() / logprobs[t].exp().item()
            low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
            if algorithm.policy_loss == "reinforce":
                objective = advantage * logprobs[t]
            elif algorithm.policy_loss == "cispo":
                objective = min(max(ratio.item(), low), high) * advantage * logprobs[t]
            else:
                objective = min(ratio * advantage, ratio.clamp(low, high) * advantage, key=torch.Tensor.item)
                if algorithm.dual_clip is not None and advantage < 0:
                    objective = max(objective, torch.tensor(algorithm.dual_clip * advantage), key=torch.Tensor.item)
            whole = sum(mismatch) if algorithm.importance_sampling == "sequence" else mismatch[t]
            total = total - weight * min(math.exp(whole), algorithm.importance_cap) * objective
            if algorithm.kl_coefficient and algorithm.kl_in == "loss":
                d = float(sample.reference_logprobs[t]) - logprobs[t]
                kl = d.exp() - d - 1 if algorithm.kl_estimator == "k3" else d * d / 2
                total = total + weight * algorithm.kl_coefficient * kl
            entropy = -(distributions[t].exp() * distributions[t]).sum()
            total = total - weight * algorithm.entropy_coefficient * entropy
            if values_of is not None:
                value, old = values_of(row)[t], float(sample.values[t])
                clip, target = config.critic.value_clip, float(sample.returns[t])
                near = old + (value - old).clamp(-clip, clip)
                total = total + weight / 2 * max((value - target) ** 2, (near - target) ** 2, key=torch.Tensor.item)
    return total


BASE = AlgorithmConfig(recompute_logprobs=True, importance_cap=1.05)
CASES = {
    **{
        name: apply_algorithm(BASE, name)
        for name in ("grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "reinforce++")
    },
    "dual clip, k2, entropy": replace(
        BASE, dual_clip=1.25, kl_coefficient=0.3, kl_estimator="k2", entropy_coefficient=0.05, clip_low=0.05
    ),
    "sequence importance": replace(BASE, importance_sampling="sequence", aggregation="sequences"),
    "tight cispo": replace(BASE, policy_loss="cispo", clip_low=0.05, clip_high=0.05),
    "wide gspo": replace(BASE, ratio="sequence", aggregation="sequences", clip_low=0.02, clip_high=0.02),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_the_slow_loop(case):
    config = make_config(CASES[case])
    samples = weigh(make_samples(), config.algorithm.aggregation)
    model = tiny.tiny_policy().model
    loss, sums = loss_and_sums(model, None, config, make_micro_batch(samples))
    loss.backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected = slow_loss(model, config, samples)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=2e-6)
    assert set(sums) == set(SUMS)
    assert sums["tokens"] == sum(sample.rollout.sampled_tokens for sample in samples)
    assert sums["loss"] == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_the_critics_loss_is_that_of_the_slow_loop(trunk):
    policy = tiny.tiny_policy()
    config = make_config(AlgorithmConfig(advantage="gae"), trunk=trunk, value_coefficient=0.7)
    critic = make_critic(policy, config)
    with torch.no_grad():
        critic.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    samples = weigh(make_samples(values=True), "tokens")
    loss, _ = loss_and_sums(policy.model, critic, config, make_micro_batch(samples))
    loss.backward()
    own = critic.gradient.clone()
    critic.gradient.zero_()
    policy.model.zero_grad()
    body = policy.model.model if trunk == "shared" else critic.trunk.model

    def values_of(row):
        sample = samples[row]
        ids = torch.from_numpy(sample.rollout.token_ids.astype(np.int64))
        places = torch.from_numpy(np.flatnonzero(sample.rollout.loss_mask) - 1)
        return critic.head(body(input_ids=ids[None]).last_hidden_state[0, places])[:, 0]

    policy_part = slow_loss(policy.model, config, samples)
    value_part = slow_loss(policy.model, config, samples, values_of) - policy_part.detach()
    expected = policy_part + (0.7 if trunk == "shared" else 1.0) * (value_part - policy_part + policy_part.detach())
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own, critic.gradient, rtol=1e-3, atol=5e-6)
    assert own.abs().max() > 1e-4


@pytest.mark.parametrize("case", CASES)
def test_splitting_a_mini_batch_changes_no_gradient(case):
    config = make_config(CASES[case])
    samples = weigh(make_samples(1), config.algorithm.aggregation)
    gradients = []
    for parts in ([samples], [samples[:1], samples[1:3], samples[3:]]):
        model = tiny.tiny_policy().model
        for part in parts:
            loss_and_sums(model, None, config, make_micro_batch(part))[0].backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=0)


def test_the_entropys_gradient_goes_through_the_chunks(monkeypatch):
    from zerosearch_agents.forward import head

    config = make_config(replace(BASE, entropy_coefficient=0.5))
    samples = weigh(make_samples(), "tokens")
    gradients = []
    for chunk in (4096, 5):
        monkeypatch.setattr(head, "chunk_size", lambda *_, chunk=chunk: chunk)
        model = tiny.tiny_policy().model
        loss_and_sums(model, None, config, make_micro_batch(samples))[0].backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=0)
