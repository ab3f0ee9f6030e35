from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_env.llm.local import fused
from zerosearch_env.llm.local.decoder import Decoder, make_decoder
from zerosearch_env.llm.local.fused import FusedDecoder, why_not_fused
from zerosearch_env.llm.local.generic import CachedDecoder, PlainDecoder
from zerosearch_env.llm.local.paged_cache import PAGE, PagedCache

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
FUSED = {
    "qwen3": tiny_config(VOCABULARY, hidden=32, layers=2, heads=4, mlp=48),
    "qwen3, one kv head, untied": Qwen3Config(**SIZES | {"num_key_value_heads": 1}, head_dim=16),
    "qwen3, yarn": Qwen3Config(**SIZES, head_dim=16, rope_parameters=YARN_ROPE),
    "qwen2": Qwen2Config(**SIZES),
    "llama": LlamaConfig(**SIZES),
    "llama, scaled rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
}
CACHED = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=None, eos_token_id=None
    ),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=40, pad_token_id=None),
    "mistral": MistralConfig(**SIZES, sliding_window=30),
    "llama with biases": LlamaConfig(**SIZES, mlp_bias=True),
}


def random_model(config: Any) -> PreTrainedModel:
    """A model whose every parameter matters, biases and gains too."""
    model = new_model(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.mul_(2.0)
    return model


class Rows:
    """Rows fed to a decoder, each step compared with the model's own forward over whole rows."""

    def __init__(self, model: PreTrainedModel, decoder: Decoder, slots: int) -> None:
        self.model, self.decoder = model, decoder
        self.rows: list[list[int]] = [[] for _ in range(slots)]
        self.rng = np.random.default_rng(0)
        self.worst = 0.0

    def check(self, slots: Sequence[int], logits: torch.Tensor) -> None:
        for slot, row_logits in zip(slots, logits, strict=True):
            with torch.no_grad():
                expected = self.model(torch.tensor([self.rows[slot]]), use_cache=False).logits[0, -1]
            self.worst = max(self.worst, float((row_logits - expected).abs().max()))

    def prefill(self, counts: dict[int, int], keep: int | None = None) -> None:
        slots = list(counts)
        starts = [len(self.rows[slot]) if keep is None else keep for slot in slots]
        chunks = [self.rng.integers(0, VOCABULARY, count).tolist() for count in counts.values()]
        for slot, start, chunk in zip(slots, starts, chunks, strict=True):
            self.rows[slot] = self.rows[slot][:start] + chunk
        self.check(slots, self.decoder.prefill(slots, starts, chunks))

    def step(self, *slots: int) -> None:
        tokens = self.rng.integers(0, VOCABULARY, len(slots))
        positions = np.array([len(self.rows[slot]) for slot in slots])
        for slot, token in zip(slots, tokens.tolist(), strict=True):
            self.rows[slot].append(token)
        self.check(slots, self.decoder.step(np.array(slots), positions, tokens))

    def release(self, slot: int) -> None:
        self.rows[slot] = []
        self.decoder.release(slot)


def exercise(rows: Rows) -> None:
    rows.prefill({0: 70, 2: 3, 1: 64, 3: 33})
    rows.step(0, 1, 2, 3)
    rows.step(3, 1)
    rows.prefill({2: 90, 1: 1})  # a second turn, beside rows that stay where they are
    rows.release(0)
    rows.step(2, 3)
    rows.prefill({0: 5, 3: 20})  # a new row in an old slot
    rows.prefill({2: 4}, keep=50)  # a row cut back
    for _ in range(3):
        rows.step(0, 2, 3, 1)


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_decoder_equals_the_model(name: str) -> None:
    model = random_model(FUSED[name])
    decoder = make_decoder(model, 4, 200)
    assert isinstance(decoder, FusedDecoder)
    rows = Rows(model, decoder, 4)
    exercise(rows)
    assert rows.worst < 1e-5


@pytest.mark.parametrize("name", CACHED)
def test_the_cached_decoder_equals_the_model(name: str) -> None:
    model = random_model(CACHED[name])
    assert why_not_fused(model) is not None
    decoder = make_decoder(model, 4, 200)
    assert isinstance(decoder, CachedDecoder)
    rows = Rows(model, decoder, 4)
    exercise(rows)
    assert rows.worst < 1e-5


def test_any_other_model_is_decoded_without_a_cache(caplog: pytest.LogCaptureFixture) -> None:
    config = BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4, bos_token_id=None, eos_token_id=None
    )
    model = random_model(config)
    with caplog.at_level(logging.WARNING):
        decoder = make_decoder(model, 4, 200)
    assert isinstance(decoder, PlainDecoder)
    assert "without a cache" in caplog.text
    rows = Rows(model, decoder, 4)
    exercise(rows)
    assert rows.worst < 1e-5


def test_chunks_longer_than_a_prefill_group() -> None:
    model = random_model(FUSED["qwen3"])
    rows = Rows(model, FusedDecoder(model, 3, 1500), 3)
    rows.prefill({0: 700, 1: 1100, 2: 7})
    rows.step(1, 0, 2)
    assert rows.worst < 1e-5


def test_rows_longer_than_the_first_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_FIRST_ROTATIONS", 16)
    rows = Rows(random_model(FUSED["qwen3"]), FusedDecoder(random_model(FUSED["qwen3"]), 2, 200), 2)
    rows.prefill({0: 15, 1: 40})
    for _ in range(4):
        rows.step(0, 1)
    assert rows.worst < 1e-5


def test_weights_are_not_copied_where_they_must_not_be() -> None:
    decoder = make_decoder(random_model(FUSED["qwen3"]), 4, 200, copy_weights=False)
    assert isinstance(decoder, CachedDecoder)


def test_the_cache_has_room_for_the_slots_in_use_only() -> None:
    model = random_model(CACHED["gpt2"])
    decoder = make_decoder(model, 32, 400)
    assert isinstance(decoder, CachedDecoder)
    rows = Rows(model, decoder, 32)
    layer = decoder._cache.layers[0]
    rows.prefill({0: 200})
    assert layer.keys.shape[0] == 1
    rows.decoder.copy(0, [4], 150)
    rows.rows[4] = rows.rows[0][:150]
    rows.prefill({4: 3, 7: 20})
    rows.step(0, 4, 7)
    assert layer.keys.shape[0] == 8
    for slot in (4, 0, 7):
        rows.release(slot)
    assert layer.keys is None
    rows.prefill({1: 9})  # and room for short rows only, after a long one
    rows.step(1)
    assert layer.keys.numel() < 2 * 100 * model.config.n_embd
    assert rows.worst < 1e-5


def test_refresh_takes_over_new_weights() -> None:
    model = random_model(FUSED["llama"])
    rows = Rows(model, make_decoder(model, 2, 100), 2)
    rows.prefill({0: 5, 1: 9})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    rows.decoder.refresh()
    rows.rows = [[], []]
    rows.prefill({0: 5, 1: 9})
    rows.step(0, 1)
    assert rows.worst < 1e-5


def test_a_model_in_training_mode_is_decoded_without_dropout_and_stays_in_it() -> None:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, resid_pdrop=0.5, bos_token_id=None, eos_token_id=None
    )
    model = random_model(config).train()
    decoder = make_decoder(model, 1, 50)
    first, second = (decoder.prefill([0], [0], [[1, 2, 3]]) for _ in range(2))
    assert isinstance(decoder, CachedDecoder)
    assert torch.equal(first, second)
    assert model.training


def test_bfloat16_is_close() -> None:
    model = random_model(FUSED["qwen3"])
    expected = FusedDecoder(model, 1, 64).prefill([0], [0], [[1, 2, 3, 4]])
    half = model.bfloat16()
    decoder = make_decoder(half, 1, 64)
    assert isinstance(decoder, FusedDecoder)
    got = decoder.prefill([0], [0], [[1, 2, 3, 4]])
    assert got.dtype == torch.float32
    assert float((got - expected).abs().max()) < 0.1 * float(expected.abs().max())


def test_numbers_that_are_none_do_not_leak_into_other_rows() -> None:
    model = random_model(FUSED["qwen3"])
    decoder = FusedDecoder(model, 2, 300)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        kept = embedding[5].clone()
        embedding[5] = float("nan")
    decoder.prefill([0], [0], [[5] * 100])
    decoder.release(0)
    with torch.no_grad():
        embedding[5] = kept
    rows = Rows(model, decoder, 2)
    rows.prefill({0: 10, 1: 70})
    rows.step(0, 1)
    assert rows.worst < 1e-5


def test_pages_are_given_back_and_closed_up() -> None:
    cache = PagedCache(1, 1, 2, slots=40, max_tokens=5 * PAGE, dtype=torch.float32, device=torch.device("cpu"))
    slots = np.arange(40)
    cache.reserve(slots, np.full(40, 3 * PAGE - 1))
    assert cache.plan(slots).pages == 120
    for slot in range(40):
        for position in range(3 * PAGE - 1):
            if position % 50 == 0:
                page, offset = cache.places(np.array([slot]), np.array([position]))
                cache.keys[0][page, 0, offset] = float(slot * 1000 + position)
    for slot in range(36):
        cache.truncate(slot, 0)
    left = np.arange(36, 40)
    plan = cache.plan(left)
    assert plan.pages < 24
    assert len(plan.flat) == 12
    for slot in left:
        pages = cache.pages_of(slot, 3 * PAGE - 1)
        for position in range(0, 3 * PAGE - 1, 50):
            page, offset = pages[position // PAGE], position % PAGE
            assert cache.keys[0][page, 0, offset, 0] == slot * 1000 + position
            assert cache.bias[page, offset] == 0.0
