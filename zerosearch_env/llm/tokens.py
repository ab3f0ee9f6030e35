"""Prompts and environment text as token ids, the same for policies and for simulation LLMs.

A prompt has the ids that its tokenizer gives it, so a base model gets its BOS token exactly when its tokenizer adds
one, and a chat model gets what its template writes. Text that the model must not obey (questions, documents, queries)
never becomes a control token: `</s>` or `[INST]` in a document is cut in two, and each half is tokenised separately.

    "... [INST] ..."   ->   "... [" + "INST] ..."        no character is lost

Text that contains no control token, which is nearly all text, is tokenised once and not changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import ConfigError, sentence
from ..protocols import PROTOCOLS

_CUT = "\ufdd0"
"""Marks the place of a cut: a noncharacter of Unicode, reserved for the internal use of programs."""

_TAG = re.compile(r"<[^<>]+>")
_BRACKETED = re.compile(r"[<\[].*[>\]]", re.DOTALL)
_HTML = re.compile(
    r"</?(?:a|b|blockquote|br|caption|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td|"
    r"tfoot|th|thead|tr|u|ul)\s?/?>"
)


# Any: tokenizers of Transformers have no common type without importing it
def encode_texts(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Token ids of environment texts: no special tokens are added, and none comes from the text itself.

    Args:
        texts: observations, documents or other text that is not the policy's.
        tokenizer: a tokenizer of Transformers.
    """
    control = control_ids(tokenizer)
    return [
        ids if control.isdisjoint(ids) else _encode_cut(_cut(text, tokenizer), tokenizer)
        for text, ids in zip(texts, _encode(texts, tokenizer), strict=True)
    ]


# Any: likewise, and a chat template takes anything
def encode_prompts(
    prompts: Sequence[str],
    tokenizer: Any,
    *,
    chat: bool = False,
    questions: Sequence[str] | None = None,
    **template_options: Any,
) -> list[list[int]]:
    """Token ids of prompts: `tokenizer(prompt)` or, with `chat`, one user message in the tokenizer's chat template.

    Args:
        prompts: the prompts.
        tokenizer: a tokenizer of Transformers.
        chat: use the chat template. Its text is tokenised as it is, so the template decides about a BOS token.
        questions: the part of each prompt that comes from a dataset. Control tokens are cut there only, so a prompt
            template may contain some. None: they are cut in the whole prompt.
        **template_options: variables for the chat template.

    Raises:
        ConfigError: `chat` is set, and the tokenizer has no chat template.
    """
    if chat:
        chats = [({"role": "user", "content": prompt},) for prompt in prompts]
        return encode_chats(chats, tokenizer, questions=questions, **template_options)
    # A group of rollouts has one prompt, which is encoded once.
    pairs = list(zip(prompts, prompts if questions is None else questions, strict=True))
    ids = {pair: _encode_plain(*pair, tokenizer) for pair in dict.fromkeys(pairs)}
    return [list(ids[pair]) for pair in pairs]


# Any: likewise
def encode_chats(
    chats: Sequence[Sequence[Mapping[str, Any]]],
    tokenizer: Any,
    *,
    questions: Sequence[str] | None = None,
    prefill: str = "",
    **template_options: Any,
) -> list[list[int]]:
    """Token ids of conversations in the tokenizer's chat template, up to where the assistant's next turn begins.

    Args:
        chats: the messages of each conversation; only the contents of user messages may come from a dataset.
        tokenizer: a tokenizer of Transformers with a chat template.
        questions: the part of each conversation's user messages that comes from a dataset, see `encode_prompts`.
        prefill: text with which the assistant's turn begins.
        **template_options: variables for the chat template, `tools` among them.

    Raises:
        ConfigError: the tokenizer has no chat template, or its template refuses a conversation.
    """
    check_chat_template(tokenizer)
    keys = [
        (tuple([(m["role"], m["content"]) for m in chat]), None if questions is None else questions[number])
        for number, chat in enumerate(chats)
    ]
    distinct = dict(zip(keys, chats, strict=True))
    texts = {key: _chat_text(chat, key[1], tokenizer, template_options) + prefill for key, chat in distinct.items()}
    plain = _encode(list(texts.values()), tokenizer)
    ids = {
        key: _encode_cut(text, tokenizer) if _CUT in text else row
        for (key, text), row in zip(texts.items(), plain, strict=True)
    }
    return [list(ids[key]) for key in keys]


def _chat_text(
    chat: Sequence[Mapping[str, Any]], question: str | None, tokenizer: Any, options: Mapping[str, Any]
) -> str:
    control = control_ids(tokenizer)
    messages = []
    for message in chat:
        content = message["content"]
        if message["role"] == "user" and control and not control.isdisjoint(_encode([content], tokenizer)[0]):
            part = content if question is None else question
            message = {**message, "content": content.replace(part, _cut(part, tokenizer))}
        messages.append(message)
    return render_chat(messages, tokenizer, **options)


# Any: likewise
def check_chat_template(tokenizer: Any) -> None:
    """Check that a tokenizer has a chat template.

    Raises:
        ConfigError: it has none.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            "chat is on (in the policy's card, zerosearch.json, or by an option), but its tokenizer has no chat "
            "template: put one into chat_template.jinja in the policy's directory, or set chat to off (on the card: "
            "false)."
        )


# Any: likewise
def render_chat(messages: Sequence[Mapping[str, Any]], tokenizer: Any, **options: Any) -> str:
    """The text of a conversation in the tokenizer's chat template, up to where the assistant's next turn begins.

    Raises:
        ConfigError: the template refuses the conversation.
    """
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=False, **options
        )
    except Exception as cause:  # a template raises jinja2's errors and, for contents it cannot use, Python's
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ConfigError(
            f"the tokenizer's chat template refuses the messages ({roles}): {sentence(str(cause))}"
        ) from cause
    assert isinstance(text, str)
    return text


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """Trusted text around contents: `pieces[0]`, the first content, `pieces[1]`, ... Made by `make_frame`."""

    pieces: tuple[str, ...]
    """One more than there are contents; they may contain control tokens."""
    head: tuple[int, ...] = ()
    """The ids of the first piece up to its last control token. (What follows may merge with the first content.)"""
    tail: int = 0
    """The number of ids of the last piece from its first control token on."""
    inside: int = 0
    """The number of control tokens of the pieces between two contents."""


BARE = Frame(("", ""))
"""No text around one content."""


# Any: likewise
def make_frame(pieces: Sequence[str], tokenizer: Any) -> Frame:
    """The frame of these pieces of trusted text, at least two."""
    control = control_ids(tokenizer)
    head, *inside, tail = _encode(pieces, tokenizer)
    places = [number for number, token in enumerate(head) if token in control]
    last = next((number for number, token in enumerate(tail) if token in control), len(tail))
    between = sum(token in control for piece in inside for token in piece)
    return Frame(tuple(pieces), tuple(head[: places[-1] + 1] if places else ()), len(tail) - last, between)


# Any: likewise
def encode_framed(
    rows: Sequence[tuple[Frame, Sequence[str]]], tokenizer: Any, *, limit: int | None = None
) -> list[list[int]]:
    """Token ids of contents in their frames, each tokenised as one text; contents become ids as in `encode_texts`.

    Args:
        rows: a frame, and as many contents as it has room for.
        tokenizer: a tokenizer of Transformers.
        limit: the contents of a row are cut to this many tokens together, its frame is kept; None: no limit.
    """
    control, openings = _control(tokenizer)
    encoded = _encode([_fill(frame, contents) for frame, contents in rows], tokenizer)
    for number, ((frame, contents), ids) in enumerate(zip(rows, encoded, strict=True)):
        # Looking for beginnings of control tokens is much faster than looking at every id.
        clean = openings is not None and not any(map(openings.search, contents))
        if not clean:
            middle = ids[len(frame.head) : len(ids) - frame.tail]
            clean = control.isdisjoint(middle) if not frame.inside else _count(middle, control) == frame.inside
        if not clean:
            encoded[number] = _encode_cut(_fill(frame, [_cut(text, tokenizer) for text in contents]), tokenizer)
        if limit is not None and len(encoded[number]) > limit:
            encoded[number] = _limited(encoded[number], frame, contents, tokenizer, limit)
    return encoded


def _limited(ids: list[int], frame: Frame, contents: Sequence[str], tokenizer: Any, limit: int) -> list[int]:
    if frame is BARE:
        return ids[:limit]
    parts = encode_texts(contents, tokenizer)
    if sum(map(len, parts)) <= limit:
        return ids
    *pieces, last = _encode(frame.pieces, tokenizer)
    cut: list[int] = []
    for piece, part in zip(pieces, parts, strict=True):
        cut += piece + part[:limit]
        limit -= min(limit, len(part))
    return cut + last


def _fill(frame: Frame, contents: Sequence[str]) -> str:
    if len(contents) == 1:
        return f"{frame.pieces[0]}{contents[0]}{frame.pieces[1]}"
    return frame.pieces[0] + "".join(chain.from_iterable(zip(contents, frame.pieces[1:], strict=True)))


def _encode_plain(prompt: str, question: str, tokenizer: Any) -> list[int]:
    control = control_ids(tokenizer)
    ids = list(tokenizer(prompt)["input_ids"])
    found = _count(ids, control)
    if not found or found == _count(tokenizer("")["input_ids"], control):  # only what the tokenizer itself adds
        return ids
    cut = prompt.replace(question, _cut(question, tokenizer))
    if cut == prompt:
        return ids
    bare = _encode(["a"], tokenizer)[0]
    framed = list(tokenizer("a")["input_ids"])
    start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
    return [*framed[:start], *_encode_cut(cut, tokenizer), *framed[start + len(bare) :]]


_CONTROL: WeakKeyDictionary[Any, tuple[int, frozenset[int], re.Pattern[str] | None]] = WeakKeyDictionary()
"""Per tokenizer: the number of registered protocols, and what `_control` returns."""


# Any: tokenizers of Transformers have no common type without importing it
def control_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that environment text must not have: special tokens, and added tokens in brackets such as `<mask>`.

    White space, words and HTML elements among the added tokens are ordinary text, and so is a single character (some
    tokenizers pad with `!`). So are the tags that the registered protocols write, such as `<information>`: documents
    lose theirs when they are rendered (see `defuse_tags`).

    Computed once per tokenizer, so add tokens to it before its first use.
    """
    return _control(tokenizer)[0]


def _control(tokenizer: Any) -> tuple[frozenset[int], re.Pattern[str] | None]:
    """The control ids, and the first four characters of their tokens; a text without those has none of the ids.

    The pattern is None if a text may spell one of the tokens differently.
    """
    known = _CONTROL.get(tokenizer)
    if known is None or known[0] != len(PROTOCOLS):
        own, special = _protocol_tags(), set(getattr(tokenizer, "all_special_ids", ()))
        tokens = {
            number: token
            for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
            if (token.special or number in special or _in_brackets(token.content))
            and len(token.content.strip()) > 1
            and token.content not in own
        }
        known = _CONTROL[tokenizer] = (len(PROTOCOLS), frozenset(tokens), _beginnings(tokens, tokenizer))
    return known[1:]


def _beginnings(tokens: Mapping[int, Any], tokenizer: Any) -> re.Pattern[str] | None:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None or any(token.normalized for token in tokens.values()):
        return None
    # A token that the model itself finds, after normalisation, has more than one spelling ("\uff1cs\uff1e").
    try:
        spelt = [piece.id for token in tokens.values() for piece in core.model.tokenize(token.content)]
    except Exception:  # the model has no token for unknown characters, and tokenizers raises no class of its own
        return None
    if not tokens.keys().isdisjoint(spelt):
        return None
    openings: dict[str, set[str]] = {}  # the first character apart: `re` looks for a single one fastest
    for token in tokens.values():
        openings.setdefault(token.content[0], set()).add(re.escape(token.content[1:4]))
    pattern = "|".join(f"{re.escape(first)}(?:{'|'.join(sorted(rest))})" for first, rest in openings.items())
    return re.compile(pattern or r"(?!)")


def _in_brackets(content: str) -> bool:
    return bool(_BRACKETED.fullmatch(content)) and not _HTML.fullmatch(content)


def _protocol_tags() -> set[str]:
    """Every tag that the registered protocols write, in angle brackets."""
    parts = ["<think></think>"]
    for protocol in PROTOCOLS.values():
        parts += [protocol.render_documents((), ""), protocol.render_search("x"), protocol.render_answer("x")]
        parts += [protocol.invalid_notice or "", protocol.reference_invalid_notice or "", protocol.last_turn_notice]
    return set(_TAG.findall("\n".join(parts)))


def _cut(text: str, tokenizer: Any) -> str:
    """Put a mark inside every control token of a text, so that no part between two marks contains one."""
    control = control_ids(tokenizer)
    text = text.replace(_CUT, "")
    # A cut can uncover a shorter token, so this is repeated. Every round makes at least one more cut.
    while found := control.intersection(chain.from_iterable(_encode(text.split(_CUT), tokenizer))):
        names = sorted((str(tokenizer.convert_ids_to_tokens(number)) for number in found), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
        cut = pattern.sub(lambda match: f"{match[0][0]}{_CUT}{match[0][1:]}", text)
        if cut == text:
            break
        text = cut
    unknown = getattr(tokenizer, "unk_token_id", None)  # what is left of it stands for characters, not for a control
    if not found - {unknown}:
        return text
    # Spelt in a way that only the tokenizer's normaliser understands: no character of it means anything alone.
    return _CUT.join(text.replace(_CUT, ""))


def _encode_cut(text: str, tokenizer: Any) -> list[int]:
    return list(chain.from_iterable(_encode([part for part in text.split(_CUT) if part], tokenizer)))


def _encode(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None and not (core.truncation or core.padding or core.encode_special_tokens):
        # A quarter faster than Transformers, which also computes where each token is in the text.
        return [encoding.ids for encoding in core.encode_batch_fast(list(texts), add_special_tokens=False)]
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def _count(ids: Sequence[int], control: frozenset[int]) -> int:
    return sum(number in control for number in ids)
