"""The chunked head: equal to the whole one, with and without recomputation, for every kind of loss over tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zerosearch_agents.forward import head as head_module
from zerosearch_agents.forward.head import chunk_size, cross_entropy, head_loss, score_tokens, takes_token_loss

TOKENS, WIDTH, VOCABULARY = 23, 8, 37


def setting(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(VOCABULARY, WIDTH, generator=generator))
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    weights = torch.randn(2, TOKENS, generator=generator)
    return head, hidden, targets, weights


def plain(head, hidden, targets, weights, temperature, entropy_weight):
    logits = (hidden @ head.weight.t()) / temperature
    logprobs = logits.log_softmax(-1)
    chosen = logprobs[torch.arange(TOKENS), targets]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    loss = (weights[0] * chosen.exp()).sum() + entropy_weight * (weights[1] * entropy).sum()
    return loss, chosen, entropy


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [5, 1000])
def test_loss_made_in_the_forward_pass_is_that_of_the_whole_head(monkeypatch, chunk, temperature, entropy_weight):
    monkeypatch.setattr(head_module, "chunk_size", lambda *_: chunk)
    head, hidden, targets, weights = setting()
    expected = plain(head, hidden, targets, weights, temperature, entropy_weight)
    wanted = torch.autograd.grad(2.0 * expected[0], (hidden, head.weight))

    def token_loss(logprobs, entropy, part):
        loss = (weights[0, part] * logprobs.exp()).sum()
        return loss + entropy_weight * (weights[1, part] * entropy).sum() if entropy_weight else loss

    got = head_loss(hidden, targets, head, temperature, token_loss)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(2.0 * got[0], (hidden, head.weight))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    scored = score_tokens(hidden, targets, head, temperature, entropy_gradient=True)
    loss = (weights[0] * scored[0].exp()).sum() + entropy_weight * (weights[1] * scored[1]).sum()
    for a, b in zip(torch.autograd.grad(2.0 * loss, (hidden, head.weight)), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    alone = -cross_entropy(hidden, targets, head, temperature)
    torch.testing.assert_close(alone, expected[1].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [5, 1000])
def test_the_weights_gradient_is_added_where_the_caller_says(monkeypatch, chunk, dtype):
    monkeypatch.setattr(head_module, "chunk_size", lambda *_: chunk)
    head, hidden, targets, weights = setting()

    def token_loss(logprobs, entropy, part):
        return (weights[0, part] * logprobs.exp()).sum()

    loss = head_loss(hidden, targets, head, 0.7, token_loss, dtype=dtype)[0]
    wanted = torch.autograd.grad(loss, (hidden, head.weight))
    added = torch.ones_like(head.weight)
    loss = head_loss(hidden, targets, head, 0.7, token_loss, dtype=dtype, d_weight=added)[0]
    loss.backward()
    assert head.weight.grad is None
    torch.testing.assert_close(hidden.grad, wanted[0])
    torch.testing.assert_close(added, 1 + wanted[1], atol=1e-6, rtol=1e-5)
    loss = head_loss(hidden, targets, head, 0.7, token_loss, dtype=dtype, d_weight=added)[0]
    with pytest.raises(AssertionError, match="factor of 1"):
        (2 * loss).backward()


def test_bfloat16_is_close_and_its_gradients_are_float32():
    head, hidden, targets, weights = setting()
    wanted = torch.autograd.grad(plain(head, hidden, targets, weights, 1.0, 0.0)[0], (hidden, head.weight))

    def token_loss(logprobs, entropy, part):
        return (weights[0, part] * logprobs.exp()).sum()

    loss = head_loss(hidden, targets, head, 1.0, token_loss, dtype=torch.bfloat16)[0]
    for a, b in zip(torch.autograd.grad(loss, (hidden, head.weight)), wanted, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.03 * b.norm()


def test_a_frozen_head_gets_no_gradient():
    head, hidden, targets, _ = setting()
    head.requires_grad_(False)
    head_loss(hidden, targets, head, 1.0, lambda logprobs, *_: logprobs.sum())[0].backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


def test_logits_so_far_apart_that_a_probability_is_zero_have_finite_logprobs():
    head, _, _, _ = setting()
    with torch.no_grad():
        head.weight.mul_(1e3)
    hidden = torch.ones(1, WIDTH, requires_grad=True)
    logits = hidden @ head.weight.t()
    target = logits.argmin(-1)
    loss, logprobs, entropy = head_loss(hidden, target, head, 1.0, lambda logprobs, *_: -logprobs.sum())
    loss.backward()
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[0, target].detach())
    assert torch.isfinite(hidden.grad).all()
    assert abs(float(entropy)) < 1e-3


def test_memory_of_a_chunk_is_bounded_whatever_the_vocabulary():
    cpu = torch.device("cpu")
    for vocabulary in (2_000, 151_936, 1_000_000):
        assert chunk_size(vocabulary, cpu) * vocabulary * 4 <= 1 << 26
    assert chunk_size(10**9, cpu) == 16


def test_which_heads_are_differentiated_by_hand():
    assert takes_token_loss(nn.Linear(2, 3, bias=False))
    assert not takes_token_loss(nn.Linear(2, 3))
    assert not takes_token_loss(nn.Sequential(nn.Linear(2, 3, bias=False)))
