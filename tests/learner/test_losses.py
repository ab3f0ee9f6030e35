from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zerosearch_agents.objective.losses import (
    cispo_loss,
    clipped_policy_loss,
    entropy_bonus,
    reinforce_loss,
    sequence_log_ratio,
    token_weights,
    truncated_importance_weights,
    value_loss,
)
from zerosearch_env.errors import ConfigError


def test_token_weights_by_hand():
    lengths = np.array([2, 6])
    np.testing.assert_allclose(token_weights(lengths, "tokens"), [1 / 8, 1 / 8])
    np.testing.assert_allclose(token_weights(lengths, "sequences"), [1 / 4, 1 / 12])
    np.testing.assert_allclose(token_weights(lengths, "constant", 10), [1 / 20, 1 / 20])
    with pytest.raises(ConfigError, match="'tokens'"):
        token_weights(lengths, "token")


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on policy: the gradient of log p is -A
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.6, 0.0, 1),  # above 1 + high = 1.3 and still pushed up
        (0.5, 2.0, -1.0, -1.0, 0),
        (1.5, -2.0, 3.0, 3.0, 0),
        (0.5, -2.0, 1.8, 0.0, 1),  # below 1 - low = 0.9 and still pushed down
    ],
)
def test_clipped_policy_loss_by_hand(ratio, advantage, loss, gradient, clipped):
    logprobs = torch.tensor([math.log(ratio) - 1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.0], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    got, clip = clipped_policy_loss(logprobs - old, advantage * one, one, clip_low=0.1, clip_high=0.3)
    got.backward()
    assert got.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert clip.item() == clipped


def test_weights_scale_each_token():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    weights = torch.tensor([0.25, 0.75])
    loss, _ = clipped_policy_loss(logprobs - logprobs.detach(), torch.tensor([1.0, -2.0]), weights)
    loss.backward()
    assert loss.item() == pytest.approx(-0.25 + 1.5)
    torch.testing.assert_close(logprobs.grad, torch.tensor([-0.25, 1.5]))


def test_truncated_importance_weights_by_hand():
    weights, mismatch = truncated_importance_weights(
        torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -3.0, -1.0]), 2.0
    )
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, math.exp(-1)]))
    torch.testing.assert_close(mismatch, torch.tensor([0.0, math.exp(2) - 3, math.exp(-1)]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, -2.0, 2.0, 2.0, 0),
        (2.9, -2.0, 5.8, 5.8, 0),  # below c = 3: the loss still grows with the ratio
        (5.0, -2.0, 6.0, 0.0, 1),  # above it: c * |A|, and no gradient
        (0.5, -2.0, 1.8, 0.0, 1),  # the lower bound is the clip's own: 0.9 * 2
        (5.0, 2.0, -2.6, 0.0, 1),  # a positive advantage is bounded by 1 + high as before
    ],
)
def test_dual_clip_by_hand(ratio, advantage, loss, gradient, clipped):
    log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    got, clip = clipped_policy_loss(log_ratio, advantage * one, one, clip_low=0.1, clip_high=0.3, dual_clip=3.0)
    got.backward()
    assert got.item() == pytest.approx(loss)
    assert log_ratio.grad.item() == pytest.approx(gradient)
    assert clip.item() == clipped


@pytest.mark.parametrize(
    ("ratio", "weight", "clipped"),
    [(1.0, 1.0, 0), (0.01, 0.01, 0), (4.9, 4.9, 0), (9.0, 5.0, 1)],  # no lower bound; 1 + high = 5
)
def test_cispo_by_hand(ratio, weight, clipped):
    logprobs = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    log_ratio = logprobs - (logprobs.detach() - math.log(ratio))
    loss, clip = cispo_loss(logprobs, log_ratio, 3.0 * one, 0.5 * one)
    loss.backward()
    assert loss.item() == pytest.approx(-weight * 3.0 * -2.0 * 0.5)
    assert logprobs.grad.item() == pytest.approx(-weight * 3.0 * 0.5)  # also where the weight is clipped
    assert clip.item() == clipped


def test_reinforce_by_hand():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, clip = reinforce_loss(logprobs, torch.tensor([2.0, -3.0]), torch.tensor([0.5, 0.25]))
    loss.backward()
    assert loss.item() == pytest.approx(1.0 - 1.5)  # -(2 * -1 * .5) - (-3 * -2 * .25)
    torch.testing.assert_close(logprobs.grad, torch.tensor([-1.0, 0.75]))
    assert clip.sum() == 0


def test_on_policy_the_three_losses_have_one_gradient():
    generator = torch.Generator().manual_seed(1)
    start, advantages, weights = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    gradients = []
    for kind in range(3):
        logprobs = start.clone().requires_grad_()
        log_ratio = logprobs - start
        if kind == 0:
            loss = clipped_policy_loss(log_ratio, advantages, weights)[0]
        elif kind == 1:
            loss = cispo_loss(logprobs, log_ratio, advantages, weights)[0]
        else:
            loss = reinforce_loss(logprobs, advantages, weights)[0]
        loss.backward()
        gradients.append(logprobs.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


def test_sequence_ratio_by_hand():
    # rollout 0: gaps ln 4 and 0, geometric mean 2; rollout 1: one gap of ln 3
    old = torch.zeros(3, dtype=torch.float64)
    logprobs = torch.tensor([math.log(4), 0.0, math.log(3)], dtype=torch.float64, requires_grad=True)
    log_ratio = sequence_log_ratio(logprobs, old, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(log_ratio.exp(), torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64))
    log_ratio[0].backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_the_sequence_ratios_gradient_is_that_of_gspos_own_objective():
    generator = torch.Generator().manual_seed(2)
    rows, lengths = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([3, 1, 2])
    start, old = torch.randn(2, 6, generator=generator, dtype=torch.float64) * 0.3
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    ours = start.clone().requires_grad_()
    loss, _ = clipped_policy_loss(
        sequence_log_ratio(ours, old, rows, 3), advantages[rows], 1 / (3 * lengths[rows].double()), 0.1, 0.1
    )
    loss.backward()
    theirs = start.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in range(3):  # -1/G sum of min(s A, clip(s) A), s = exp(mean of the gaps)
        s = ((theirs - old)[rows == row].mean()).exp()
        total = total - torch.minimum(s * advantages[row], s.clamp(0.9, 1.1) * advantages[row]) / 3
    total.backward()
    assert loss.item() == pytest.approx(total.item())
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_importance_weights_of_whole_rollouts_by_hand():
    old, sampler = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.25, -1.25, -1.0])
    rows = torch.tensor([0, 0, 1])
    weights, mismatch = truncated_importance_weights(old, sampler, 1.5, "sequence", rows, 2)
    torch.testing.assert_close(weights, torch.tensor([1.5, 1.5, math.exp(-1)]))  # exp(.5) = 1.65 is cut
    tokens, same = truncated_importance_weights(old, sampler, 1.5)
    torch.testing.assert_close(tokens, torch.tensor([math.exp(0.25), math.exp(0.25), math.exp(-1)]))
    torch.testing.assert_close(mismatch, same)


def test_truncated_weights_make_the_expected_gradient_the_learners():
    """Sampled from one distribution, weighed, the gradient is that of sampling from the other one."""
    generator = torch.Generator().manual_seed(3)
    sampler, learner = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    advantages = torch.randn(5, generator=generator, dtype=torch.float64)
    weights, _ = truncated_importance_weights(learner, sampler, 1e9)
    torch.testing.assert_close((sampler.exp() * weights * advantages), learner.exp() * advantages)


@pytest.mark.parametrize(
    ("value", "loss", "gradient", "clipped"),
    [
        (0.6, 0.08, -0.4, 0),  # old 0.5, target 1: inside the clip, (0.6 - 1)^2 / 2
        (0.9, 0.045, 0.0, 1),  # moved further than 0.2 towards the target: (0.7 - 1)^2 / 2 and no gradient
        (0.1, 0.405, -0.9, 0),  # moved away: the larger error counts, and pulls it back
    ],
)
def test_value_loss_by_hand(value, loss, gradient, clipped):
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    got, clip = value_loss(values, 0.5 * one, one, one, 0.2)
    got.backward()
    assert got.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(gradient)
    assert clip.item() == clipped
    plain, none = value_loss(values, 0.5 * one, one, one)
    assert plain.item() == pytest.approx((value - 1) ** 2 / 2)
    assert none.item() == 0


def test_more_entropy_is_less_loss():
    logits = torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)

    def entropy(values):
        logprobs = values.log_softmax(-1)
        return -(logprobs.exp() * logprobs).sum(-1)

    bonus = entropy_bonus(entropy(logits), torch.ones(1, dtype=torch.float64), 0.5)
    assert bonus.item() == pytest.approx(-0.5 * entropy(logits).item())
    bonus.backward()
    assert entropy(logits - 0.1 * logits.grad) > entropy(logits)


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(4)
    old, advantages, weights = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    rows = torch.arange(12) // 4

    def clipped(x):
        return clipped_policy_loss(x - old, advantages, weights, 0.2, 0.28, 3.0)[0]

    def values(x):
        return value_loss(x, old, advantages, weights.abs(), 0.2)[0]

    for function in (clipped, values, lambda x: reinforce_loss(x, advantages, weights)[0]):
        start = old + 0.5 * torch.randn(12, generator=generator, dtype=torch.float64)
        assert torch.autograd.gradcheck(function, start.requires_grad_())
    # The sequence ratio stops gradients on purpose: its derivative is checked along a whole rollout, where it is whole.
    start = (old + 0.1).requires_grad_()
    even = torch.full((12,), 0.25, dtype=torch.float64)

    def sequence(x):
        return clipped_policy_loss(sequence_log_ratio(x, old, rows, 3), advantages[::4][rows], even, 0.3, 0.3)[0]

    sequence(start).backward()
    for row in range(3):
        move = 1e-6 * (rows == row).double()
        slope = (sequence(start + move) - sequence(start - move)).item() / 2e-6
        assert start.grad[rows == row].sum().item() == pytest.approx(slope, rel=1e-6)
