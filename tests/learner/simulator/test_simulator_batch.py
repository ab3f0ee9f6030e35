"""From pairs to the loss: only documents are trained on, and packed examples do not influence each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer

from zerosearch_agents.forward.batch import pack
from zerosearch_agents.forward.chunks import CHUNK_BYTES
from zerosearch_agents.forward.mode import ForwardMode
from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_agents.sft.loss import check_loss, loss_sum
from zerosearch_agents.sft.rows import Row
from zerosearch_agents.simulator.pairs.pair import Pair, prompt_text, target_text
from zerosearch_agents.simulator.tuning.encode import encode
from zerosearch_env.errors import ConfigError

PADDED, PACKED = ForwardMode(), ForwardMode("sequences")


@pytest.fixture(scope="module")
def model():
    config = tiny_config(len(tiny_tokenizer()), hidden=32, layers=2, heads=2, mlp=48, context_tokens=2048)
    return new_model(config, seed=1)


@pytest.fixture
def examples(pairs: list[Pair]) -> list[Row]:
    return [found for pair in pairs[:5] if (found := encode(pair, tiny_tokenizer(), 2048)) is not None]


def test_an_example_is_prompt_documents_end(pairs: list[Pair]) -> None:
    tokenizer, pair = tiny_tokenizer(), pairs[2]
    example = encode(pair, tokenizer, 2048)
    assert example is not None
    prompt = example.trained.index(True)
    assert tokenizer.decode(example.ids[:prompt]) == prompt_text(pair)
    assert tokenizer.decode(example.ids[prompt:-1]) == target_text(pair.documents)
    assert example.ids[-1] == tokenizer.eos_token_id
    assert example.targets == len(example.ids) - prompt
    assert encode(pair, tokenizer, len(example.ids)) is not None
    assert encode(pair, tokenizer, len(example.ids) - 1) is None


def test_a_tokenizer_without_an_end(pairs: list[Pair]) -> None:
    class Endless:
        eos_token_id = None

    with pytest.raises(ConfigError, match="eos_token"):
        encode(pairs[0], Endless(), 100)


def test_the_chat_template_is_used_as_at_serving(pairs: list[Pair]) -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    try:
        example = encode(pairs[0], tokenizer, 2048)
        assert example is not None
        assert tokenizer.decode(example.ids[: example.trained.index(True)]) == f"[{prompt_text(pairs[0])}]>"
    finally:
        tokenizer.chat_template = before


def by_hand(model, examples: list[Row]) -> torch.Tensor:
    """-sum of log p(token | everything before it), over documents and end token."""
    total = torch.zeros(())
    for example in examples:
        ids = torch.tensor(list(example.ids))
        logprobs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for place in range(example.trained.index(True), len(ids)):
            total = total - logprobs[place - 1, ids[place]]
    return total


@pytest.mark.parametrize("mode", [PADDED, PACKED])
def test_the_loss_is_that_of_the_documents_alone(model, examples: list[Row], mode: ForwardMode) -> None:
    torch.testing.assert_close(loss_sum(model, examples, mode), by_hand(model, examples))


def test_packed_examples_do_not_see_each_other(model, examples: list[Row]) -> None:
    """Other examples in the same row change neither loss nor gradient."""
    alone = loss_sum(model, examples[:1], PACKED)
    changed = [examples[0], replace(examples[1], ids=np.roll(examples[1].ids, 7).tolist())]
    together = loss_sum(model, changed, PACKED) - loss_sum(model, changed[1:], PACKED)
    behind = loss_sum(model, changed[::-1], PACKED) - loss_sum(model, changed[1:], PACKED)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(behind, alone)


def test_long_targets_go_through_the_head_in_chunks(model, examples: list[Row], monkeypatch) -> None:
    def gradient() -> torch.Tensor:
        model.zero_grad()
        loss_sum(model, examples).backward()
        return model.get_input_embeddings().weight.grad.clone()

    whole = gradient()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 0)  # 16 tokens per chunk
    torch.testing.assert_close(gradient(), whole)


def test_check_loss_finds_scaled_logits(model, examples: list[Row]) -> None:
    check_loss(model, examples[:3], PACKED)
    handle = model.register_forward_hook(lambda module, args, output: output.__setitem__("logits", 30 * output.logits))
    try:
        with pytest.raises(ConfigError, match="cap or scale"):
            check_loss(model, examples[:3], PADDED)
    finally:
        handle.remove()


def test_packing() -> None:
    assert pack([5, 9, 4, 1, 20], 10) == [[4], [1, 3], [0, 2]]
    lengths = [int(n) for n in np.random.default_rng(0).integers(1, 60, 200)]
    groups = pack(lengths, 100)
    assert sorted(i for group in groups for i in group) == list(range(200))
    assert max(sum(lengths[i] for i in group) for group in groups) <= 100
    assert len(groups) <= 1.22 * sum(lengths) / 100 + 1
