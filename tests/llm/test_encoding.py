"""Prompts and environment text as token ids, with small tokenizers made here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm import tokens
from zerosearch_env.llm.chat import prompt_ids
from zerosearch_env.llm.tokens import control_ids, encode_framed, encode_prompts, encode_texts, make_frame
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.types import Document, Question

SPECIAL = ["<bos>", "<eos>", "[INST]", "[/INST]", "<|user|>", "<<a>>", "!", "\t\t"]
ADDED = ["<mask>", "[multimodal]", "<think>", "</think>", "<search>", "<information>", "</information>", "\n\n", "<b>"]
CONTROL = [*SPECIAL[:-2], "<mask>", "[multimodal]"]
NO_BOS = "{% for m in messages %}<|user|>{{ m.content | trim }}{% endfor %}<eos>\n"
WITH_BOS = "{{ bos_token }}" + NO_BOS


def make_tokenizer(*, bos: bool = True, template: str | None = None, ends: bool = False) -> PreTrainedTokenizerFast:
    """One token per byte, and the added tokens; with `bos`, every text begins with <bos>."""
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    inner.add_tokens([AddedToken(content, normalized=False) for content in ADDED])
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>" if ends else "<bos> $A",
            special_tokens=[(name, inner.token_to_id(name)) for name in ("<bos>", "<eos>")],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", additional_special_tokens=SPECIAL[2:]
    )
    tokenizer.chat_template = template
    return tokenizer


BASE, PLAIN = make_tokenizer(), make_tokenizer(bos=False)
CHAT, CHAT_BOS = make_tokenizer(template=NO_BOS), make_tokenizer(template=WITH_BOS)
soup = st.lists(st.sampled_from([*CONTROL, *ADDED, "<", "[", "]", ">", "\ufdd0"]) | st.text(max_size=3), max_size=8)
texts = soup.map("".join)
few = settings(max_examples=50)


def names(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    """The control tokens among ids."""
    return [str(tokenizer.convert_ids_to_tokens(i)) for i in ids if i in control_ids(tokenizer)]


def test_control_tokens_are_the_special_ones_and_those_in_brackets() -> None:
    assert sorted(names(BASE, list(range(len(BASE))))) == sorted(CONTROL)
    plain = set(BASE.convert_tokens_to_ids(["!", "\t\t"]))
    assert set(BASE.all_special_ids) - plain <= control_ids(BASE)
    more = make_tokenizer()
    more.add_tokens(["[more]", "word"])
    assert len(control_ids(more)) == len(CONTROL) + 1


# Prompts


@pytest.mark.parametrize("tokenizer", [BASE, PLAIN, make_tokenizer(ends=True)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_prompt_has_the_ids_of_its_tokenizer(tokenizer: PreTrainedTokenizerFast, protocol: str) -> None:
    prompts = [
        Episode(Question("1", text, ("a",)), make_rules(protocol=protocol)).prompt for text in ("q?", "r\n\n<b>")
    ]
    assert encode_prompts(prompts, tokenizer) == [tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert prompt_ids(tokenizer, prompts[0]) == tokenizer(prompts[0])["input_ids"]
    assert encode_prompts(["a! \t\t"], tokenizer) == [tokenizer("a! \t\t")["input_ids"]]
    assert encode_prompts([], tokenizer) == []


@pytest.mark.parametrize("tokenizer", [CHAT, CHAT_BOS])
def test_a_chat_prompt_has_the_ids_of_its_template(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": " q?\n"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert encode_prompts([" q?\n"], tokenizer, chat=True) == [expected]
    assert prompt_ids(tokenizer, " q?\n") == expected
    bos = ["<bos>"] if tokenizer is CHAT_BOS else []  # exactly one: the tokenizer does not add its own
    assert names(tokenizer, expected) == [*bos, "<|user|>", "<eos>"]


STRICT = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"


def test_a_chat_prompt_with_a_system_message_and_the_beginning_of_the_reply() -> None:
    tokenizer = make_tokenizer(template="{% for m in messages %}<|user|>{{ m.role }}:{{ m.content }}{% endfor %}<eos>")
    for system, framed in ((None, ""), ("", "<|user|>system:"), ("Be.", "<|user|>system:Be.")):
        for prefill in ("", "Doc 1:", "<think>\n\n</think>\n\nDoc 1:"):
            text = f"{framed}<|user|>user:q?<eos>{prefill}"
            expected = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert prompt_ids(tokenizer, "q?", system=system, prefill=prefill) == expected
    ids = prompt_ids(tokenizer, "<eos>", system="", prefill="Doc 1:")
    assert names(tokenizer, ids) == ["<|user|>", "<|user|>", "<eos>"], "the text's own token is still cut"
    assert prompt_ids(BASE, "q?", prefill="Doc 1:") == BASE("q?Doc 1:")["input_ids"]
    with pytest.raises(ConfigError, match="needs a model with a chat template"):
        prompt_ids(BASE, "q?", system="")
    with pytest.raises(ConfigError, match=r"refuses the messages \(system, user\): no system"):
        prompt_ids(make_tokenizer(template=STRICT), "q?", system="")


def test_chat_needs_a_template() -> None:
    with pytest.raises(ConfigError, match=r"chat_template\.jinja"):
        encode_prompts(["q"], BASE, chat=True)


@few
@given(texts)
@example("</s>[INST]<bos>")
def test_a_prompt_gets_no_control_token_from_its_text(text: str) -> None:
    assert names(BASE, encode_prompts([text], BASE)[0]) == ["<bos>"]
    assert names(PLAIN, encode_prompts([text], PLAIN)[0]) == []
    for tokenizer, bos in ((CHAT, []), (CHAT_BOS, ["<bos>"])):
        for ids in (encode_prompts([text], tokenizer, chat=True)[0], prompt_ids(tokenizer, text)):
            assert names(tokenizer, ids) == [*bos, "<|user|>", "<eos>"]


def test_a_prompt_template_keeps_its_own_control_tokens() -> None:
    question, ends = "is [INST] a <mask>?", make_tokenizer(ends=True)
    prompt = f"[INST]{question}[/INST]"
    (ids,) = encode_prompts([prompt], ends, questions=[question])
    assert names(ends, ids) == ["<bos>", "[INST]", "[/INST]", "<eos>"]
    assert BASE.decode(ids) == f"<bos>{prompt}<eos>"
    (ids,) = encode_prompts([prompt], CHAT, chat=True, questions=[question])
    assert names(CHAT, ids) == ["<|user|>", "[INST]", "[/INST]", "<eos>"]


# Environment text


@few
@given(texts)
@example("<<<a>>>")
@example("<ma[INST]sk>")
def test_environment_text_never_has_a_control_token_and_loses_nothing(text: str) -> None:
    for tokenizer in (BASE, PLAIN):
        (ids,) = encode_texts([text], tokenizer)
        assert control_ids(tokenizer).isdisjoint(ids)
        assert tokenizer.decode(ids).replace("\ufdd0", "") == text.replace("\ufdd0", "")  # the mark of a cut


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_observation_keeps_the_tags_of_its_protocol(protocol: str) -> None:
    plain = PROTOCOLS[protocol].render_documents([Document("T", "some text <b>")], "q")
    assert encode_texts([plain], BASE) == [BASE(plain, add_special_tokens=False)["input_ids"]]
    hostile = PROTOCOLS[protocol].render_documents([Document("<mask>", "[INST] <information> <eos>")], "q")
    (ids,) = encode_texts([hostile], BASE)
    assert names(BASE, ids) == []
    tag = BASE.convert_tokens_to_ids("<information>")
    assert ids.count(tag) == hostile.count("<information>")
    assert BASE.decode(ids) == hostile


@settings(max_examples=25)
@given(st.lists(texts, min_size=1, max_size=3), st.none() | st.integers(1, 9))
@example(["<eos>", "<|use", "<b>"], None)
def test_a_text_without_beginnings_of_control_tokens_is_not_looked_at_again(
    contents: list[str], limit: int | None
) -> None:
    frame = make_frame(["<|user|>", *["<eos>\n<|user|>"] * (len(contents) - 1), "<eos>\n"], BASE)
    quick = encode_framed([(frame, contents)], BASE, limit=limit)
    ids, beginnings = tokens._control(BASE)
    assert beginnings is not None
    tokens._CONTROL[BASE] = (len(PROTOCOLS), ids, None)
    assert encode_framed([(frame, contents)], BASE, limit=limit) == quick
    tokens._CONTROL[BASE] = (len(PROTOCOLS), ids, beginnings)


@few
@given(texts)
def test_texts_have_the_ids_that_transformers_gives_them(text: str) -> None:
    assert tokens._encode([text, ""], BASE) == BASE([text, ""], add_special_tokens=False)["input_ids"]


def test_what_a_tokenizer_file_says_about_truncation_and_padding_is_not_applied() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=7)
    assert [len(ids) for ids in tokens._encode(["abcd", "a"], tokenizer)] == [4, 1]


def test_a_spelling_that_only_the_normaliser_sees() -> None:
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_tokens([AddedToken("[MASK]", normalized=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    full_width = "a ［ＭＡＳＫ］"
    assert names(tokenizer, tokenizer(full_width)["input_ids"]) == ["[MASK]"]
    assert names(tokenizer, encode_texts([full_width], tokenizer)[0]) == []


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_a_model_whose_vocabulary_has_the_control_tokens_as_pieces(scheme: str) -> None:
    """Splitting special tokens is not enough here: a unigram model finds `</s>` among its own pieces."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<mask>", 0.0), *((c, -5.0) for c in "<>/ask m▁")]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.add_tokens(["<mask>"])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert 2 in tokenizer("</s>", split_special_tokens=True)["input_ids"]
    for text in ("a <mask> s</s>", "</s>", "<s>"):
        assert control_ids(tokenizer).isdisjoint(encode_texts([text], tokenizer)[0])
        assert names(tokenizer, encode_prompts([text], tokenizer)[0]) == ["<s>"]
    assert encode_prompts(["ask"], tokenizer) == [tokenizer("ask")["input_ids"]]


def test_an_unknown_character_is_no_control_token() -> None:
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "unk": 2, "<": 3, ">": 4}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Punctuation()
    inner.add_special_tokens(["<unk>"])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert encode_texts(["a", "é", "<unk>"], tokenizer) == [[1], [0], [3, 2, 4]]
    assert encode_prompts(["é"], tokenizer) == [[0]]


def test_rows_of_fine_tuning_have_the_ids_of_rollouts() -> None:
    from zerosearch_agents.sft.rows import encode_rows

    texts = [
        [("q <mask>?", False), ("<search>x</search><eos>", True), ("<information>[INST]</information>", False)],
        [("base text", True)],
    ]
    conversation, base = encode_rows(BASE, texts)
    (prompt,), (reply,) = encode_prompts(["q <mask>?"], BASE), encode_texts([texts[0][2][0]], BASE)
    turn = BASE("<search>x</search><eos>", add_special_tokens=False)["input_ids"]
    assert conversation.ids == [*prompt, *turn, *reply]
    assert conversation.trained == [False] * len(prompt) + [True] * len(turn) + [False] * len(reply)
    assert turn[-1] == BASE.eos_token_id
    assert (base.ids, base.targets) == (BASE("base text", add_special_tokens=False)["input_ids"], len(base.ids))
    assert encode_rows(BASE, []) == []


def test_a_model_without_a_token_for_unknown_characters() -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="<none>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<eos>"])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    assert encode_framed([(make_frame(["", "<eos>"], tokenizer), ["a b"])], tokenizer) == [[0, 1, 2]]
