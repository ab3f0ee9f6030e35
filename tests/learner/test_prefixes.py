"""Rollouts with a common prefix: the tree, the plan of the passes, and the same gradients as without sharing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch import make_rollout
from test_objective import CASES, make_config, weigh
from test_packed import PACKED, PADDED, gradients, make_model

from zerosearch_agents.config.algorithms import AlgorithmConfig
from zerosearch_agents.config.lora import LoraShape
from zerosearch_agents.config.train import TrainConfig
from zerosearch_agents.forward.batch import Sample, make_micro_batch, plan_passes
from zerosearch_agents.forward.prefixes import GRAIN, prefix_tree, sort_by_prefix
from zerosearch_agents.policy.lora import make_adapter
from zerosearch_agents.training.critic import make_critic
from zerosearch_agents.training.loss import loss_and_sums

P = 2 * GRAIN
HALVES = st.lists(st.integers(0, 1), max_size=8)


def sequence(halves: list[int], rest: list[int]) -> np.ndarray:
    """Half grains of one token each, so that prefixes of several lengths are common, and a few more tokens."""
    return np.array([*(token for token in halves for _ in range(GRAIN // 2)), *rest])


SEQUENCES = st.lists(
    st.builds(sequence, HALVES, st.lists(st.integers(0, 1), min_size=1, max_size=5)), min_size=1, max_size=9
)


@settings(max_examples=40)
@given(SEQUENCES)
def test_the_tree_holds_every_sequence_and_each_common_prefix_once(sequences):
    ids = np.concatenate(sequences)
    tree = prefix_tree(ids, [len(row) for row in sequences])
    row = ids[tree.origins_T]
    for sequence, places in zip(sequences, tree.places, strict=True):
        np.testing.assert_array_equal(row[places], sequence)
        np.testing.assert_array_equal(tree.positions_T[places], np.arange(len(sequence)))
    for node in tree.nodes:  # a sequence through this node has exactly the nodes before it
        before = [place for part in node.before for place in range(part.start, part.stop)]
        through = [places for places in tree.places if node.tokens.start in places]
        assert through
        for places in through:
            assert [place for place in places if place < node.tokens.start] == before
    assert [node.tokens.start for node in tree.nodes[1:]] == [node.tokens.stop for node in tree.nodes[:-1]]
    blocks = {tuple(sequence[: depth + GRAIN]) for sequence in sequences for depth in range(0, len(sequence), GRAIN)}
    whole = sum(len(block) % GRAIN == 0 for block in blocks)  # full blocks of GRAIN tokens, by all that is before them
    rest = sum(len(sequence) % GRAIN for sequence in sequences)
    assert len(row) == whole * GRAIN + rest


@settings(max_examples=40)
@given(SEQUENCES, st.integers(1, 120), st.integers(1, 4))
def test_passes_hold_every_row_once_within_the_budget_and_share_the_work(sequences, budget, workers):
    plans = plan_passes(sequences, budget, PACKED, workers)
    assert len(plans) == workers
    assert sorted(index for plan in plans for part in plan for index in part) == list(range(len(sequences)))

    def cost(part):
        rows = [sequences[index] for index in part]
        return len(prefix_tree(np.concatenate(rows), [len(row) for row in rows]).origins_T)

    for plan in plans:
        assert all(len(part) == 1 or cost(part) <= budget for part in plan)
    loads = [cost([index for part in plan for index in part]) if plan else 0 for plan in plans]
    alone = cost(range(len(sequences))) / workers
    longest = max(map(len, sequences))
    assert max(loads) <= alone + 2 * longest


def test_groups_stay_together():
    prompts = [np.arange(40) + 100 * group for group in range(4)]
    rows = [np.append(prompts[i % 4], np.arange(20) + i) for i in range(16)]  # the groups take turns
    (plan,) = plan_passes(rows, 130, PACKED)
    assert sorted(sorted(part) for part in plan) == [list(range(i, 16, 4)) for i in range(4)]
    two = plan_passes(rows, 1000, PACKED, 2)
    assert [sorted(index % 4 for part in plan for index in part) for plan in two] == [
        [0] * 4 + [1] * 4,
        [2] * 4 + [3] * 4,
    ]
    assert plan_passes([np.arange(9), np.arange(9)], 100, PACKED, 4).count([]) >= 2
    order, shared = sort_by_prefix(rows)
    assert [index % 4 for index in order] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert shared == [0, 40, 40, 40] * 4


def group(prefix: int, lengths, seed: int, *, sampled_prefix: int = 0) -> list[Sample]:
    """Rollouts with a common prefix, whose last tokens the policy may have sampled too."""
    random = np.random.default_rng(seed)
    common = random.integers(0, 320, prefix)
    samples = []
    for index, length in enumerate(lengths):
        rollout = make_rollout(prefix + length, 100 * seed + index)
        ids, mask = rollout.token_ids.copy(), rollout.loss_mask.copy()
        ids[:prefix], mask[:prefix] = common, np.arange(prefix) >= prefix - sampled_prefix
        mask[0] = False
        logprobs = np.where(mask, random.normal(-5.6, 0.1, len(ids)), 0).astype(np.float32)
        rollout = replace(rollout, token_ids=ids, loss_mask=mask, logprobs=logprobs)
        count = int(mask.sum())
        near = [(logprobs[mask] + random.normal(0, 0.1, count)).astype(np.float32) for _ in range(2)]
        values = random.normal(size=count).astype(np.float32)
        samples.append(
            Sample(rollout, random.normal(size=count), 0.1, near[0], near[1], values, random.normal(size=count))
        )
    return samples


SHARED = {
    "one group": group(P + 3, (9, 30, 1, 17), 1),
    "several groups and a rollout alone": [*group(P, (12, 5), 2), *group(0, (25,), 3), *group(3 * P, (7, 40, 3), 4)],
    "all but the last token": group(P, (1, 1, 1), 5, sampled_prefix=4),
    "equal rollouts": [*group(P, (6,), 6, sampled_prefix=9)] * 3,
    "the prompt is sampled too": group(P + 1, (20, 8, 150), 7, sampled_prefix=P),
    "groups of one": [*group(P, (12,), 8), *group(P, (12,), 9)],
}


def tree_of(samples):
    rows = [sample.rollout.token_ids for sample in samples]
    return prefix_tree(np.concatenate(rows), [len(row) for row in rows])


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logprobs_and_gradients_are_those_without_sharing(case, checkpointing):
    model, samples = make_model(), SHARED[case]
    saved = sum(len(sample.rollout.token_ids) for sample in samples) - len(tree_of(samples).origins_T)
    assert (saved > 0) == (case != "groups of one")
    mode = replace(PACKED, checkpointing=checkpointing)
    padded, shared = (gradients(model, samples, mode) for mode in (PADDED, mode))
    for got, expected in zip(shared[:2], padded[:2], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in padded[2].items():
        torch.testing.assert_close(shared[2][name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_a_common_prefix_goes_through_the_model_once(monkeypatch):
    model, samples, seen = make_model("Llama"), SHARED["one group"], []
    model.base_model.embed_tokens.register_forward_pre_hook(lambda _, ids: seen.append(ids[0].numel()))
    gradients(model, samples, PACKED)
    assert seen == [P + sum(len(sample.rollout.token_ids) - P for sample in samples)]


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_and_sharing_change_no_gradient(case):
    config = make_config(CASES[case])
    samples = [*SHARED["one group"], *SHARED["the prompt is sampled too"], *SHARED["equal rollouts"]]
    samples = weigh(samples, config.algorithm.aggregation)
    found = []
    for mode, most in ((PADDED, 1), (PACKED, 10_000), (PACKED, 60), (replace(PACKED, checkpointing=True), 200)):
        model = make_model()
        for part in plan_passes([sample.rollout.token_ids for sample in samples], most, mode)[0]:
            loss_and_sums(model, None, config, make_micro_batch([samples[i] for i in part], mode=mode))[0].backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_the_critic_shares_prefixes_too(trunk):
    policy = type("Policy", (), {"model": make_model()})()
    config = make_config(AlgorithmConfig(advantage="gae"), trunk=trunk)
    samples = weigh(SHARED["the prompt is sampled too"], "tokens")
    found = []
    for mode in (PADDED, PACKED):
        critic = make_critic(policy, config)
        with torch.no_grad():
            critic.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        policy.model.zero_grad()
        loss, sums = loss_and_sums(policy.model, critic, config, make_micro_batch(samples, mode=mode))
        loss.backward()
        own = torch.cat([p.grad.reshape(-1) for p in policy.model.parameters()])
        found.append((loss.detach(), torch.tensor(sums["value_loss"]), own, critic.gradient.clone()))
    for got, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_a_change_in_one_rollout_reaches_no_other_through_the_prefix():
    model, samples = make_model(), SHARED["one group"]
    before = gradients(model, samples, PACKED)[0]
    ids = samples[1].rollout.token_ids.copy()
    ids[P + 3 :] = (ids[P + 3 :] + 7) % 320
    changed = [samples[0], replace(samples[1], rollout=replace(samples[1].rollout, token_ids=ids)), *samples[2:]]
    after = gradients(model, changed, PACKED)[0]
    counts = [sample.rollout.sampled_tokens for sample in samples]
    for index, (a, b) in enumerate(zip(before.split(counts), after.split(counts), strict=True)):
        assert torch.allclose(a, b, atol=1e-6) == (index != 1)


def test_lora_adapters_are_applied_in_shared_prefixes():
    pytest.importorskip("peft", reason="peft is not installed (extra lora)")
    model = make_model("Llama")
    make_adapter(model, TrainConfig(lora=LoraShape(rank=2, alpha=4.0)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    padded, shared = (gradients(model, SHARED["one group"], mode) for mode in (PADDED, PACKED))
    torch.testing.assert_close(shared[0], padded[0], atol=1e-5, rtol=1e-5)
    assert padded[2]
    for name, gradient in padded[2].items():
        torch.testing.assert_close(shared[2][name], gradient, atol=2e-5, rtol=1e-4, msg=name)
