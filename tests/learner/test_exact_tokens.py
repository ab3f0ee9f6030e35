"""Sampled ids = trained ids, over random transcripts of every protocol.

The policy's turns are drawn as text with multi-byte characters and tags, tokenised in a random way (tags fall apart
into several tokens, characters into bytes), cut by the real stop finder at the token that completes a stop string,
which may carry more text behind it, and played through real episodes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollout import ScriptedSampler
from tokenizers import pre_tokenizers

from zerosearch_agents.forward.batch import Sample, make_micro_batch
from zerosearch_agents.rollouts.rollout import rollout
from zerosearch_agents.sampling.stops import StopFinder, decode
from zerosearch_agents.tiny.tokenizer import build_tokenizer
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.types import Document, Question

DOCUMENTS = (Document("Über", "naïve 東京 text 🜁"), Document("", "b <answer> k </answer></search>"))
TEXT = st.text(max_size=8) | st.sampled_from(["東京", "é🜁", "</t", "<", "search>", "</search", "answer>\n", "<|im_"])


@lru_cache
def split_tokenizer():
    """No tag is a token of its own, and some tokens reach over the end of a tag (`>K`, `er>\\n`)."""
    texts = ["h>K", "h>K</answer>\nthen <search> Über", "er>\n er>\n >K >K the town 東京 of a person"] * 6
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # merges may cross anything
    return build_tokenizer(texts, 300, tags=(), pieces=whole)


@lru_cache
def finder(protocol: str, split: bool) -> StopFinder:
    tokenizer = split_tokenizer() if split else tiny.tiny_tokenizer()
    return StopFinder(tokenizer, PROTOCOLS[protocol].stop_strings, len(tokenizer))


def pieces_of(data, tokenizer, text: str) -> list[int]:
    """Token ids of a text, tokenised in pieces that end anywhere: not what tokenising the whole would give."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [i for part in parts for i in tokenizer.encode(part)] or [5]


def until_stop(stops: StopFinder, ids: list[int]) -> list[int]:
    """What a sampler would have drawn of these ids: up to the token that completes a stop string."""
    for count in range(1, len(ids) + 1):
        if stops.candidates[ids[count - 1]] and stops.completed(ids[:count]):
            return ids[:count]
    return ids


def actions(protocol) -> st.SearchStrategy[str]:
    acts = st.one_of(TEXT.map(protocol.render_search), TEXT.map(protocol.render_answer), TEXT)
    return st.tuples(acts, TEXT).map("".join)  # text behind the stop string, which its token may carry


@pytest.mark.parametrize("split", [False, True], ids=["tags are tokens", "tags fall apart"])
@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=8)
@given(data=st.data())
def test_trained_ids_are_the_sampled_ids(name, split, data):
    protocol = PROTOCOLS[name]
    tokenizer = split_tokenizer() if split else tiny.tiny_tokenizer()
    turns = data.draw(st.lists(st.lists(actions(protocol), max_size=4), min_size=1, max_size=3))
    stops = finder(name, split)
    scripts = [[until_stop(stops, pieces_of(data, tokenizer, turn)) for turn in one] for one in turns]
    wanted = [[list(turn) for turn in one] for one in scripts]
    sampler = ScriptedSampler(tokenizer, scripts)
    rules = make_rules(protocol=name, prompt_template="{question}\n", max_turns=3, top_k=2)
    episodes = [Episode(Question("q", "letter 東", ("k",)), rules, seed=index) for index in range(len(turns))]
    rollouts = rollout(episodes, ConstantEngine(DOCUMENTS), sampler, tokenizer)
    for key, one in enumerate(rollouts):
        assert one.token_ids.tolist() == sampler.rows[key]  # nothing was decoded and encoded again
        assert np.flatnonzero(one.loss_mask).tolist() == sampler.sampled[key]
        assert one.loss_mask[-1]  # the token that ended the last turn is trained
        runs = np.split(one.token_ids, np.flatnonzero(np.diff(one.loss_mask)) + 1)
        sampled = [run.tolist() for run in runs[1::2]]
        assert sampled[: len(wanted[key])] == wanted[key][: len(sampled)]
        texts = [decode(tokenizer, ids) for ids in sampled]
        assert [turn.action_text for turn in episodes[key].turns] == texts
    batch = make_micro_batch([Sample(one, 1.0, 1.0) for one in rollouts])
    trained = np.concatenate([one.token_ids[one.loss_mask] for one in rollouts])
    np.testing.assert_array_equal(batch.targets_N.numpy(), trained)
    before = batch.ids_BT[batch.rows_N, batch.positions_N + 1]
    np.testing.assert_array_equal(before.numpy(), trained)  # each is predicted by the place right before it


def test_a_stop_string_that_ends_inside_a_token_is_trained_with_the_whole_token():
    tokenizer = split_tokenizer()
    wide = next(i for i in range(len(tokenizer)) if decode(tokenizer, [i]).startswith("h>") and i > 257)
    assert len(decode(tokenizer, [wide])) > len("h>")
    ids = [*tokenizer.encode("</searc"), wide, *tokenizer.encode("more")]
    cut = until_stop(finder("zerosearch", True), ids)
    assert cut[-1] == wide
    assert not decode(tokenizer, cut).endswith("</search>")
