from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_agents.forward import head
from zerosearch_agents.forward.batch import Sample, deal, make_micro_batch, plan_micro_batches, token_logprobs
from zerosearch_agents.objective.losses import clipped_policy_loss, token_weights
from zerosearch_agents.rollouts.rollout import Rollout
from zerosearch_env.types import Scores, StopReason

LENGTHS = st.lists(st.integers(1, 50), max_size=30)
SCORES = Scores(None, ("a",), 0.0, 0.0, 0.0, 0.0, 0)


def make_rollout(length: int, seed: int) -> Rollout:
    random = np.random.default_rng(seed)
    mask = random.random(length) < 0.4
    mask[0], mask[-1] = False, True
    return Rollout(
        token_ids=random.integers(0, 260, length).astype(np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, random.normal(-5.6, 0.1, length), 0.0).astype(np.float32),
        scores=SCORES,
        stop_reason=StopReason.ANSWER,
        noise_level=0.0,
        turns=1,
        invalid_turns=0,
        noisy_searches=0,
        answered_searches=0,
        searches_after_noise=0,
    )


@given(LENGTHS, st.integers(1, 120))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    groups = plan_micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget


@given(LENGTHS, st.integers(1, 5))
def test_deal_gives_every_row_once_in_even_shares(lengths, workers):
    shares = deal(lengths, workers)
    assert sorted(index for share in shares for index in share) == list(range(len(lengths)))
    sums = [sum(lengths[index] for index in share) for share in shares]
    assert max(sums) - min(sums) <= max(lengths, default=0)


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_policy().model


def test_logprobs_are_those_of_the_whole_model_at_the_sampled_tokens(model):
    rollouts = [make_rollout(length, seed) for seed, length in enumerate((30, 11, 19))]
    batch = make_micro_batch([Sample(rollout, 0.0, 0.0) for rollout in rollouts])
    assert batch.tokens == 60
    logprobs, entropy = token_logprobs(model, batch, temperature=0.7)
    for rollout, got, spread in zip(
        rollouts, logprobs.split(batch.counts_B), entropy.split(batch.counts_B), strict=True
    ):
        ids = torch.from_numpy(rollout.token_ids).long()[None]  # alone and without padding
        full = (model(ids).logits[0] / 0.7).log_softmax(-1)
        places = torch.from_numpy(np.flatnonzero(rollout.loss_mask))
        torch.testing.assert_close(got, full[places - 1, ids[0, places]], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(spread, torch.special.entr(full[places - 1].exp()).sum(-1), atol=1e-5, rtol=1e-5)


def test_sampler_and_old_logprobs_reach_their_tokens():
    rollouts = [make_rollout(9, 1), make_rollout(14, 2)]
    old = np.arange(rollouts[1].sampled_tokens, dtype=np.float32)
    batch = make_micro_batch([Sample(rollouts[0], 1.0, 0.5), Sample(rollouts[1], -1.0, 0.25, old)])
    first = rollouts[0].sampled_tokens
    np.testing.assert_array_equal(batch.targets_N[:first], rollouts[0].token_ids[rollouts[0].loss_mask])
    np.testing.assert_array_equal(batch.sampler_logprobs_N[first:], rollouts[1].logprobs[rollouts[1].loss_mask])
    np.testing.assert_array_equal(batch.old_logprobs_N[:first], batch.sampler_logprobs_N[:first])
    np.testing.assert_array_equal(batch.old_logprobs_N[first:], old)
    np.testing.assert_array_equal(batch.advantages_N.unique(), [-1.0, 1.0])
    np.testing.assert_array_equal(batch.weights_N[[0, -1]], [0.5, 0.25])


def _gradient(model, samples, max_tokens):
    model.zero_grad()
    for part in plan_micro_batches([len(sample.rollout.token_ids) for sample in samples], max_tokens):
        batch = make_micro_batch([samples[index] for index in part])
        logprobs, _ = token_logprobs(model, batch)
        loss, _ = clipped_policy_loss(logprobs - batch.old_logprobs_N, batch.advantages_N, batch.weights_N)
        loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("aggregation", ["tokens", "sequences", "constant"])
def test_splitting_into_micro_batches_changes_no_gradient(model, aggregation):
    rollouts = [make_rollout(10 + 7 * seed, seed) for seed in range(6)]
    weights = token_weights(np.array([r.sampled_tokens for r in rollouts]), aggregation, 40)
    samples = [Sample(r, (-1.0) ** i, float(w)) for i, (r, w) in enumerate(zip(rollouts, weights, strict=True))]
    whole = _gradient(model, samples, 10_000)
    assert whole.norm() > 1e-3
    for max_tokens in (1, 60, 100):
        torch.testing.assert_close(_gradient(model, samples, max_tokens), whole, atol=1e-6, rtol=1e-5)


def test_chunks_of_the_head_change_nothing(model, monkeypatch):
    samples = [Sample(make_rollout(40, 3), 1.0, 0.1), Sample(make_rollout(25, 4), -1.0, 0.1)]
    whole = _gradient(model, samples, 10_000)
    monkeypatch.setattr(head, "chunk_size", lambda *_: 5)
    torch.testing.assert_close(_gradient(model, samples, 10_000), whole, atol=1e-6, rtol=1e-5)
