"""The tokenizer: any text comes back, a tag is one token, a word of a name is one token."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerosearch_agents.tiny.tokenizer import EOS, PAD, TAGS, build_tokenizer
from zerosearch_env.datasets.world.names import GRAMMARS
from zerosearch_env.errors import ConfigError
from zerosearch_env.protocols import get_protocol

WORDS = sorted({word for grammar in GRAMMARS.values() for words in grammar.lists for word in words})


@lru_cache
def tokenizer():
    """Learnt from every word of the world's names, each as often as the other."""
    return build_tokenizer([" " + " ".join(WORDS)] * 3, 3328)


@settings(max_examples=150)
@given(st.text(max_size=60) | st.lists(st.sampled_from([*TAGS, " ", "\n", "Ann", "é", "🜁"]), max_size=8).map("".join))
@example("<search> Who wrote The Amber Lantern?</search>\n\n<information>Doc 1: A: b</information>")
@example("  two  blanks ,  and . a ' quote")
@example("\r\n\t\x00\u200b\ufeff\U0010ffff")
@example("e\u0301 \u00e9 \ufb01")
def test_every_text_comes_back(text: str) -> None:
    ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert tokenizer().decode(ids) == text
    assert max(ids, default=0) < len(tokenizer())


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_one_token_wherever_it_stands(tag: str) -> None:
    (number,) = tokenizer()(tag)["input_ids"]
    for text in (f"a{tag}b", f" {tag} ", f"{tag}{tag}"):
        assert tokenizer()(text)["input_ids"].count(number) == text.count(tag)
    assert tokenizer().decode([number], skip_special_tokens=True) == tag


def test_the_tags_are_those_of_the_protocol() -> None:
    protocol = get_protocol("zerosearch")
    written = protocol.render_search("x") + protocol.render_answer("x") + protocol.render_documents([], "")
    assert {tag for tag in TAGS if "think" not in tag} == {tag for tag in TAGS if tag in written}


def test_a_word_of_a_name_is_one_token() -> None:
    assert len(WORDS) > 1000
    assert [word for word in WORDS if len(tokenizer()(" " + word)["input_ids"]) > 1] == []


def test_pad_and_end() -> None:
    assert (tokenizer().pad_token, tokenizer().eos_token) == (PAD, EOS)
    assert tokenizer()("a b")["input_ids"] == tokenizer()("a b", add_special_tokens=False)["input_ids"]
    assert tokenizer().decode(tokenizer()(f"a{EOS}")["input_ids"], skip_special_tokens=True) == "a"


def test_the_size_counts_everything() -> None:
    assert len(build_tokenizer(["abcd abcd efgh"] * 3, 270)) == 270
    assert len(build_tokenizer([], 400)) == 256 + 2 + len(TAGS)  # nothing to learn from
    with pytest.raises(ConfigError, match=r"at least 266 .* got 265"):
        build_tokenizer([], 265)


def test_the_same_texts_give_the_same_tokenizer() -> None:
    texts = ["the author of a book", "the town of a person"]
    first, again = (build_tokenizer(texts, 300).get_vocab() for _ in range(2))
    assert first == again


def test_other_tags() -> None:
    own = build_tokenizer(["abc"], 262, tags=("<tool>", "</tool>"))
    assert len(own("<tool>")["input_ids"]) == 1
    assert len(own("<search>")["input_ids"]) > 1
