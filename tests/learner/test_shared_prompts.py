"""Rows that begin with the same long prompt compute it once; what they sample stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from zerosearch_agents.sampling.local import Sampler
from zerosearch_env.llm.local import decoder as decoder_module
from zerosearch_env.llm.local.decoder import make_decoder
from zerosearch_env.llm.local.fused import FusedDecoder
from zerosearch_env.llm.local.generic import CachedDecoder, PlainDecoder

KINDS = {"fused": FusedDecoder, "cached": CachedDecoder, "plain": PlainDecoder}


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    """Has the sampler decode with each kind of decoder."""
    chosen = KINDS[request.param]

    def make(model, slots, context_tokens):
        found = chosen(model, max(slots, 2), context_tokens)
        assert decoder_module._disagreement(model, found) is None
        return found

    monkeypatch.setattr("zerosearch_agents.sampling.local.make_decoder", make)
    return chosen


class Counted:
    """A decoder that counts the tokens it prefills."""

    def __init__(self, inner):
        self.inner, self.tokens = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def prefill(self, slots, starts, chunks):
        self.tokens += sum(map(len, chunks))
        return self.inner.prefill(slots, starts, chunks)


def make(slots):
    policy = tiny.tiny_policy()
    sampler = Sampler(
        policy.model,
        policy.tokenizer,
        slots=slots,
        context_tokens=200,
        stop_strings=("</search>", "</answer>"),
        turn_tokens=6,
    )
    sampler._decoder = Counted(sampler._decoder)
    return sampler


def play(sampler, prompts, refresh=False):
    """Two turns of every row, whose number is its seed; its samples by row."""
    for key, prompt in prompts.items():
        sampler.start(key, prompt, seed=key)
    found = {key: [] for key in prompts}
    while samples := sampler.run():
        for sample in samples:
            found[sample.key].append(sample)
            if len(found[sample.key]) == 2:
                sampler.finish(sample.key)
            else:
                sampler.extend(sample.key, [5, 6, 7])
        if refresh:
            sampler.refresh()
            refresh = False
    return found


@pytest.mark.slow
def test_members_of_a_group_share_their_prompt(kind):
    rng = np.random.default_rng(0)
    long, other = (rng.integers(10, 290, 90).tolist() for _ in range(2))
    prompts = dict(enumerate([long, long, other, long, long[:70], long, other]))
    sampler = make(1)
    alone = {key: play(sampler, {key: prompt})[key] for key, prompt in prompts.items()}
    for slots in (7, 3):
        sampler = make(slots)
        found = play(sampler, prompts)
        for key, samples in found.items():
            assert [one.token_ids for one in samples] == [one.token_ids for one in alone[key]], (slots, key)
            for one, want in zip(samples, alone[key], strict=True):
                np.testing.assert_allclose(one.logprobs, want.logprobs, atol=1e-5)
        if slots == 7:
            turns = sum(len(one.token_ids) for samples in found.values() for one in samples[:1])
            # Each prompt once; then at most the documents, and the last token of every first turn.
            assert sampler._decoder.tokens <= 90 + 90 + 70 + 4 * 7
            assert turns > 7
    assert not sampler._prompts


def test_new_weights_end_the_sharing(kind):
    long = np.random.default_rng(0).integers(10, 290, 90).tolist()
    sampler = make(2)
    found = play(sampler, dict.fromkeys(range(5), long), refresh=True)
    assert [len(samples) for samples in found.values()] == [2] * 5
    assert sampler._decoder.tokens >= 2 * 90


def test_short_prompts_are_computed_as_ever():
    sampler = make(4)
    play(sampler, dict.fromkeys(range(4), [9] * 20))
    assert sampler._decoder.tokens >= 80
    assert not sampler._prompts


def test_a_shared_prompt_needs_pages_of_its_own():
    policy = tiny.tiny_policy()
    decoder = make_decoder(policy.model, 3, 200)
    assert isinstance(decoder, FusedDecoder)
    ids = np.random.default_rng(1).integers(10, 290, 100).tolist()
    decoder.prefill([0], [0], [ids])
    decoder.copy(0, [2, 1], 70)
    decoder.prefill([0], [70], [[8] * 20])  # the source goes another way
    want = PlainDecoder(policy.model, 1, 200).prefill([0], [0], [ids])
    for slot in (1, 2):
        got = decoder.prefill([slot], [70], [ids[70:]])
        np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-4)
