"""What a tokenizer's chat template can show, and the text that it writes between two turns of the assistant.

Everything is found by rendering short conversations with marks in place of the contents; no template is known by name.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

from ..errors import ConfigError
from ..protocols import Protocol
from .tokens import Frame, check_chat_template, control_ids, make_frame, render_chat

_log = logging.getLogger(__name__)

Message = Mapping[str, Any]
"""A message as `apply_chat_template` takes it."""
Contents = Sequence[tuple[str, str]]
"""The role and the content of each message."""
Writer = Callable[[str], str]
"""What a template does with a content before it writes it."""

_MARK, _TURN, _UNKNOWN = "zq0content", "zq0turn", "zq0role"
_PROBE = ' \n %s "a"\\ \n\né<b> & \n '
"""A content with white space at both ends, and with characters that a template may escape."""
_OPENED = re.compile(r"<think>\s*\Z")
_CALL_PARTS = re.compile(r'<[^<>\s]+>|"\w+"(?=:)')
"""The tags and the keys of a call."""
_CALL_ID = "call00001"  # some templates want exactly nine characters


def _plain(text: str) -> str:
    return text


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _stripped_as_json(text: str) -> str:
    return _as_json(text.strip())


_WRITERS: tuple[Writer, ...] = (_plain, str.strip, _as_json, _stripped_as_json)


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """A tokenizer's chat template, as the policies of one protocol use it. Made by `read_chat_template`."""

    options: Mapping[str, object]
    """Arguments of `apply_chat_template`, such as `tools` and `enable_thinking`."""
    system: str | None
    """The system message; None: the template's own, if it has one."""
    preface: str
    """Text before the first user message; for a template that takes no system message."""
    describes_tools: bool
    """Whether the prompt describes the protocol's tools outside the instruction."""
    prefill: str
    """Text with which the assistant's turns begin."""
    opening: str
    """What the context holds of an assistant's turn before the model writes: an open `<think>`, and the prefill."""
    end_id: int | None
    """The tokenizer's end-of-sequence token."""
    _frames: dict[tuple[str, ...], tuple[Frame, tuple[Writer, ...]] | None] = field(default_factory=dict)
    """By the roles of the messages between two turns of the assistant; None: the template cannot show them."""

    def first_messages(self, prompt: str) -> list[Message]:
        """The conversation up to the assistant's first turn."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.preface + prompt}]

    # Any: tokenizers of Transformers have no common type without importing it
    def framed(self, messages: Contents, observation: str, tokenizer: Any) -> tuple[Frame, list[str]]:
        """The frame between two turns of the assistant, and the contents to put into it.

        Args:
            messages: what the environment says; empty: the observation, as a user message.
            observation: the same as one text with the protocol's own tags. It becomes a user message if the template
                cannot show the messages, for example because it has no role for tools.
            tokenizer: the tokenizer whose template this is.
        """
        if messages:
            found = self._frame(tuple([role for role, _ in messages]), tokenizer)
            if found is not None:
                frame, writers = found
                return frame, [write(message[1]) for write, message in zip(writers, messages, strict=True)]
        text = observation.strip()
        found = self._frame(("user",) if text else (), tokenizer)
        if found is not None:
            frame, writers = found
            return frame, [writers[0](text) if writers else ""]
        raise ConfigError(
            "the tokenizer's chat template cannot show a user's message after a turn of the assistant. Set chat = "
            "false, and write the chat format into prompt_template."
        )

    # Any: likewise
    def turn_end(self, tokenizer: Any) -> int | None:
        """The control token that the template writes after a turn of the assistant; None if it writes none."""
        head = self.framed((), "x", tokenizer)[0].head
        control = control_ids(tokenizer)
        return self.end_id if self.end_id in head else next((token for token in head if token in control), None)

    def sampled_ids(self, frame: Frame, end: int) -> int:
        """How many ids at the start of a frame the model has sampled itself, after it ended its turn with `end`."""
        # Another end-of-sequence token stands for the one that the template writes.
        last = end if end in frame.head else self.end_id
        return frame.head.index(last) + 1 if last in frame.head else 0

    def _frame(self, roles: tuple[str, ...], tokenizer: Any) -> tuple[Frame, tuple[Writer, ...]] | None:
        """The frame of messages with these roles, and how the template writes the content of each."""
        try:
            return self._frames[roles]
        except KeyError:
            found = self._frames[roles] = self._make_frame(roles, tokenizer)
            return found

    def _make_frame(self, roles: tuple[str, ...], tokenizer: Any) -> tuple[Frame, tuple[Writer, ...]] | None:
        marks = [f"{_MARK}{number}" for number in range(len(roles))]
        between = self._between(roles, marks, tokenizer)
        if between is None:
            return None
        if "tool" in roles:
            # Many templates write any role into a message's header, also one that their model has never seen.
            unknown = self._between([_UNKNOWN if role == "tool" else role for role in roles], marks, tokenizer)
            if unknown is not None and unknown.replace(_UNKNOWN, "tool") == between:
                return None
        pieces: list[str] = []
        for mark in marks:
            piece, found, between = between.partition(mark)
            if not found:
                return None
            pieces.append(piece)
        pieces += [between] if marks else [between, ""]
        probes = [_PROBE % mark for mark in marks]
        probed = self._between(roles, probes, tokenizer)
        names = list(dict.fromkeys(roles))
        for choice in product(_WRITERS, repeat=len(names)):
            writers = tuple(choice[names.index(role)] for role in roles)
            contents = [write(probe) for write, probe in zip(writers, probes, strict=True)]
            if probed == "".join(map("".join, zip(pieces, [*contents, ""], strict=False))):
                return make_frame(pieces, tokenizer), writers
        return None

    def _between(self, roles: Sequence[str], contents: Sequence[str], tokenizer: Any) -> str | None:
        """What the template writes between two turns of the assistant; None if it refuses or drops a message."""
        said = [_message(role, content) for role, content in zip(roles, contents, strict=True)]
        turn = {"role": "assistant", "content": _TURN}
        try:
            text = render_chat([*self.first_messages(_MARK), turn, *said], tokenizer, **self.options)
        except ConfigError:
            return None
        _, found, between = text.rpartition(_TURN)
        return between + self.prefill if found else None


def _message(role: str, content: str) -> Message:
    return (
        {"role": role, "content": content, "name": "search", "tool_call_id": _CALL_ID}
        if role == "tool"
        else {"role": role, "content": content}
    )


_READ: WeakKeyDictionary[Any, dict[tuple[object, ...], ChatTemplate]] = WeakKeyDictionary()
"""Per tokenizer: its template, by what was asked for."""


# Any: tokenizers of Transformers have no common type without importing it
def read_chat_template(
    tokenizer: Any, protocol: Protocol | None, system: str | None, thinking: bool | None, prefill: str
) -> ChatTemplate:
    """Find out how a tokenizer's chat template shows a conversation. Computed once per tokenizer.

    Args:
        tokenizer: a tokenizer of Transformers.
        protocol: the protocol whose tools the prompt describes; None: none.
        system: the system message; None: none.
        thinking: whether the model thinks; None: the template's default.
        prefill: text with which the assistant's turns begin.

    Raises:
        ConfigError: there is no template, or it cannot show what is asked for.
    """
    check_chat_template(tokenizer)
    tools = () if protocol is None else protocol.tools
    key = (str(tokenizer.chat_template), json.dumps(tools), system, thinking, prefill)
    known = _READ.setdefault(tokenizer, {})
    if key not in known:
        known[key] = _read(tokenizer, protocol if tools else None, system, thinking, prefill)
    return known[key]


# Any: likewise
def shows_episodes(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template that can show an episode: a user who speaks again after each turn."""
    if not getattr(tokenizer, "chat_template", None):
        return False
    try:
        read_chat_template(tokenizer, None, None, None, "")
    except ConfigError:
        return False
    return True


# Any: likewise
def turn_end(tokenizer: Any) -> int | None:
    """As `ChatTemplate.turn_end`, for any tokenizer; None without a chat template that can show an episode."""
    if not shows_episodes(tokenizer):
        return None
    return read_chat_template(tokenizer, None, None, None, "").turn_end(tokenizer)


def _read(
    tokenizer: Any, protocol: Protocol | None, system: str | None, thinking: bool | None, prefill: str
) -> ChatTemplate:
    question = [{"role": "user", "content": _MARK}]

    def shows(content: str, messages: Sequence[Message], **options: Any) -> bool:
        try:
            return content in render_chat(messages, tokenizer, **options)
        except ConfigError:
            return False

    takes_system = shows(_TURN, [{"role": "system", "content": _TURN}, *question])
    if system and not takes_system:
        raise ConfigError(
            f"system = {system!r}, but the tokenizer's chat template has no place for a system message. Leave it out, "
            "and begin prompt_template with it."
        )
    options: dict[str, Any] = {}
    if thinking is not None:
        on, off = (render_chat(question, tokenizer, enable_thinking=value, thinking=value) for value in (True, False))
        if on == off:
            raise ConfigError(
                f"thinking = {str(thinking).lower()}, but the tokenizer's chat template has no such switch. Leave it "
                'out; prefill = "<think>" begins the turns of a model that always thinks.'
            )
        # Templates call the switch by one of these names, and take no notice of the other.
        options |= {"enable_thinking": thinking, "thinking": thinking}
    preface = ""
    if protocol is not None:
        tools = [dict(tool) for tool in protocol.tools]
        if all(shows(part, question, tools=tools) for part in _CALL_PARTS.findall(protocol.render_search("words"))):
            options["tools"] = tools
        else:
            place = "system message" if takes_system else "prompt"
            _log.warning(
                "the tokenizer's chat template does not describe tools as protocol %s calls them: their descriptions "
                "are in the %s",
                protocol.name,
                place,
            )
            text = describe_tools(protocol)
            if takes_system:
                system = f"{system}\n\n{text}" if system else text
            else:
                preface = f"{text}\n\n"
    template = ChatTemplate(
        options, system, preface, protocol is not None, prefill, "", getattr(tokenizer, "eos_token_id", None)
    )
    opened = _OPENED.search(render_chat(template.first_messages(_MARK), tokenizer, **options))
    if opened and prefill.startswith("<think>"):
        raise ConfigError(
            f"prefill = {prefill!r}, but the tokenizer's chat template opens the thought already. Leave it out."
        )
    template = replace(template, opening=(opened[0] if opened else "") + prefill)
    template.framed((), "x", tokenizer)  # raises if the template cannot go on after a turn
    return template


def describe_tools(protocol: Protocol) -> str:
    """The tools of a protocol as text, for chat templates that do not describe them."""
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in protocol.tools)
    return (
        f"These functions can be called:\n<tools>\n{schemas}\n</tools>\n"
        f"A call is written like this:\n{protocol.render_search('your query')}"
    )
