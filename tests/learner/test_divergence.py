from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zerosearch_agents.objective.kl import KL_ESTIMATORS, kl_k1, kl_k2, kl_k3, kl_loss, kl_penalties
from zerosearch_agents.objective.losses import reinforce_loss


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
    kl_loss(KL_ESTIMATORS[name](logprobs, reference), weights, 0.5).backward()
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


def test_penalties_by_hand():
    np.testing.assert_allclose(kl_penalties(np.float32([-1.0, -2.0]), np.float32([-1.5, -1.0]), 0.1), [0.05, -0.1])


def _policy_gradient(name):
    """Exact expectation of the policy gradient when the only reward is what the KL takes off."""
    logits, reference = _policies()
    logprobs = logits.log_softmax(-1)
    if name == "k1":
        rewards = -torch.from_numpy(kl_penalties(logprobs.detach().numpy(), reference.numpy(), 0.5))
    else:
        rewards = -0.5 * KL_ESTIMATORS[name](logprobs.detach(), reference)
    reinforce_loss(logprobs, rewards, logprobs.detach().exp())[0].backward()
    return logits, reference


def _divergence(logits, reference):
    logprobs = logits.log_softmax(-1)
    return (logprobs.exp() * (logprobs - reference)).sum()


def test_k1_in_the_reward_has_the_gradient_of_the_divergence():
    logits, reference = _policy_gradient("k1")
    other = logits.detach().clone().requires_grad_()
    (0.5 * _divergence(other, reference)).backward()
    torch.testing.assert_close(logits.grad, other.grad)
    assert _divergence(logits - 0.1 * logits.grad, reference) < _divergence(logits, reference)
    assert _divergence(logits + 0.1 * logits.grad, reference) > _divergence(logits, reference)


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_other_estimators_in_the_reward_can_raise_the_divergence(name):
    """Why the configuration refuses them there."""
    logits, reference = _policy_gradient(name)
    assert _divergence(logits - 0.1 * logits.grad, reference) > _divergence(logits, reference)
