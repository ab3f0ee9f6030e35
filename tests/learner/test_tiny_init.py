"""The initialisation: an untrained model continues what it has seen once."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_agents.tiny.induction import ROPE_THETA, induction_init
from zerosearch_env.errors import ConfigError

VOCABULARY = 1024


def made(seed: int = 0, **shape):
    model = new_model(tiny_config(VOCABULARY, **{"rope_theta": ROPE_THETA, **shape}))
    induction_init(model, seed=seed)
    return model


def continued(model, rows: int = 4, length: int = 100) -> float:
    """Share of the second half of a repeated random sequence that the model predicts."""
    half = torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(7))
    text = torch.cat([half, half], dim=1)
    with torch.inference_mode():
        predicted = model(input_ids=text).logits.argmax(-1)
    return float((predicted[:, length:-1] == text[:, length + 1 :]).float().mean())


def test_an_untrained_model_continues_a_repetition() -> None:
    assert continued(made()) > 0.9
    assert continued(new_model(tiny_config(VOCABULARY, rope_theta=ROPE_THETA))) < 0.05


def test_three_layers_are_enough() -> None:
    assert continued(made(layers=3)) > 0.8


def test_the_seed_decides_the_weights() -> None:
    small = {"hidden": 32, "layers": 3, "mlp": 32}
    first, again, other = (made(seed, **small).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_global_generator_stays_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    made(hidden=32, layers=3, mlp=32)
    assert torch.equal(torch.rand(1), expected)


def test_everything_stays_trainable() -> None:
    model = made(hidden=32, layers=3, mlp=32)
    batch = torch.arange(12)[None]
    model(input_ids=batch, labels=batch).loss.backward()
    assert all(p.requires_grad and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 2}, "3 or more layers.*got 2 layers"),
        ({"heads": 1}, "got 4 layers, 1 heads"),
        ({"kv_heads": 2}, "4 heads, 2 kv_heads"),
        ({"heads": 2}, "head_dim 64, hidden 128"),
        ({"tied": False}, "tied embeddings, got qwen3, untied"),
        ({"heads": 64}, "use larger heads"),
    ],
)
def test_other_shapes_are_refused(shape: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**shape)


def test_other_architectures_are_refused() -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    with pytest.raises(ConfigError, match="needs a qwen3 model"):
        induction_init(new_model(config))
