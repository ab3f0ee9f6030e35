"""Attention in blocks: equal to PyTorch's own, alone and inside a model."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig

from zerosearch_agents.forward import attention
from zerosearch_agents.forward.attention import BLOCK, block_causal_attention, use_block_attention
from zerosearch_agents.policy.policy import new_model, tiny_config

QWEN = tiny_config(64, hidden=32, layers=2, heads=4, kv_heads=2, mlp=48)
LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    eos_token_id=None,
    bos_token_id=None,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths that `block_causal_attention` was called with by a model."""
    lengths: list[int] = []

    def counted(q, *rest):
        lengths.append(q.shape[2])
        return block_causal_attention(q, *rest)

    monkeypatch.setattr(attention, "block_causal_attention", counted)
    return lengths


def pair(config):
    """The same model twice: as Transformers makes it, and with attention in blocks."""
    theirs, ours = (new_model(deepcopy(config)) for _ in range(2))  # the choice is kept in the configuration
    use_block_attention(ours)
    return theirs, ours


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1)])
def test_equals_sdpa_forward_and_backward(length: int, heads: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, 8), (2, kv_heads, length, 8), (2, kv_heads, length, 8)]
    ours = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    weights = torch.randn(shapes[0], generator=generator)

    got = block_causal_attention(*ours)
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)

    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def test_scale_is_that_of_the_caller() -> None:
    q, k, v = torch.randn(3, 1, 2, BLOCK + 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)
    torch.testing.assert_close(block_causal_attention(q, k, v, 0.7), expected, atol=1e-5, rtol=1e-5)


def test_the_future_is_not_seen() -> None:
    q, k, v = torch.randn(3, 1, 2, BLOCK + 9, 8, generator=torch.Generator().manual_seed(0)).unbind()
    before = block_causal_attention(q, k, v)
    k[:, :, -1] += 3.0
    v[:, :, -1] += 3.0
    after = block_causal_attention(q, k, v)
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])
    assert not torch.equal(before[:, :, -1], after[:, :, -1])


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen3", "llama"])
def test_a_model_gives_the_same_logits_and_gradients(config, calls: list[int]) -> None:
    theirs, ours = pair(config)
    batch = ids(2, BLOCK + 10)
    logits = [model(input_ids=batch, use_cache=False).logits for model in (theirs, ours)]
    assert calls == [BLOCK + 10] * 2  # once a layer
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=1e-5)
    for out in logits:
        torch.nn.functional.cross_entropy(out.flatten(0, 1), batch.flatten()).backward()
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-5, msg=name)


def test_a_mask_goes_to_sdpa(calls: list[int]) -> None:
    theirs, ours = pair(QWEN)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0  # padded on the left
    with torch.inference_mode():
        expected, got = (m(input_ids=ids(2, 12), attention_mask=mask).logits for m in (theirs, ours))
    assert not calls
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_dropout_goes_to_sdpa(calls: list[int]) -> None:
    model = new_model(LlamaConfig(**{**LLAMA.to_dict(), "attention_dropout": 0.5})).train()
    use_block_attention(model)
    model(input_ids=ids(1, 6), use_cache=False)
    assert not calls
    model.eval()(input_ids=ids(1, 6), use_cache=False)
    assert calls == [6, 6]


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen3", "llama"])
def test_generate_with_a_cache_gives_the_same_tokens(config) -> None:
    theirs, ours = pair(config)
    prompts = ids(2, 9)
    mask = torch.ones_like(prompts)
    mask[0, :3] = 0
    for chosen in (torch.ones_like(prompts), mask):
        expected, got = (
            m.generate(prompts, attention_mask=chosen, max_new_tokens=8, do_sample=False, pad_token_id=0)
            for m in (theirs, ours)
        )
        assert got.shape == (2, 17)
        assert torch.equal(got, expected)
