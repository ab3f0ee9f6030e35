from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zerosearch_agents.losses import (
    KL_ESTIMATORS,
    clipped_policy_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    policy_loss_with_kl,
    token_weights,
    truncated_importance_weights,
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
    got, clip = clipped_policy_loss(logprobs, old, advantage * one, one, clip_low=0.1, clip_high=0.3)
    got.backward()
    assert got.item() == pytest.approx(loss)
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert clip.item() == clipped


def test_weights_scale_each_token():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    weights = torch.tensor([0.25, 0.75])
    loss, _ = clipped_policy_loss(logprobs, logprobs.detach(), torch.tensor([1.0, -2.0]), weights)
    loss.backward()
    assert loss.item() == pytest.approx(-0.25 + 1.5)
    torch.testing.assert_close(logprobs.grad, torch.tensor([-0.25, 1.5]))


def test_truncated_importance_weights_by_hand():
    weights, mismatch = truncated_importance_weights(
        torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -3.0, -1.0]), 2.0
    )
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, math.exp(-1)]))
    torch.testing.assert_close(mismatch, torch.tensor([0.0, math.exp(2) - 3, math.exp(-1)]))


def test_kl_estimators_by_hand():
    logprobs, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert kl_k1(logprobs, reference).item() == pytest.approx(0.5)
    assert kl_k2(logprobs, reference).item() == pytest.approx(0.125)
    assert kl_k3(logprobs, reference).item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)


def _policies():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1)
    return logits, reference


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_estimators_are_unbiased_for_the_divergence(name):
    logits, reference = _policies()
    logprobs = logits.detach().log_softmax(-1)
    expected = (logprobs.exp() * KL_ESTIMATORS[name](logprobs, reference)).sum()
    assert expected.item() == pytest.approx((logprobs.exp() * (logprobs - reference)).sum().item())


def _kl_gradient(name):
    """Exact expectation of the gradient that sampled tokens would give, as the weight of a token is its probability."""
    logits, reference = _policies()
    logprobs = logits.log_softmax(-1)
    weights = logprobs.detach().exp()
    zero = torch.zeros((), dtype=torch.float64)
    policy_loss_with_kl(zero, KL_ESTIMATORS[name](logprobs, reference), weights, 0.5).backward()
    return logits, reference


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_a_step_on_the_loss_reduces_the_divergence(name):
    logits, reference = _kl_gradient(name)

    def divergence(values):
        logprobs = values.detach().log_softmax(-1)
        return (logprobs.exp() * (logprobs - reference)).sum().item()

    assert divergence(logits - 0.1 * logits.grad) < divergence(logits) - 1e-3
    assert divergence(logits + 0.1 * logits.grad) > divergence(logits)  # the sign of the released code


def test_gradients_of_k2_and_k3_are_those_of_the_two_divergences():
    for name, exact in (("k2", lambda p, r: (p.exp() * (p - r)).sum()), ("k3", lambda p, r: -(r.exp() * p).sum())):
        logits, reference = _kl_gradient(name)
        other = logits.detach().clone().requires_grad_()
        (0.5 * exact(other.log_softmax(-1), reference)).backward()
        torch.testing.assert_close(logits.grad, other.grad)


def test_k1_in_a_loss_would_have_no_gradient():
    logits, _ = _kl_gradient("k1")
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-12, rtol=0)
