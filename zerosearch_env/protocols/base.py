"""The `Protocol` class, the parsed form of a turn (`ParsedAction`), and the registry of protocols."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, SupportsIndex

from ..errors import ConfigError, unknown_name
from ..types import ActionKind, Document, JsonObject
from .hygiene import defuse_tags, visible


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call in a turn of a policy that calls tools. A turn may make several."""

    text: str
    """The call as the policy wrote it, on its own lines."""
    queries: tuple[str, ...] = ()
    """The cleaned queries: each of them is a search."""
    pages: tuple[str, ...] = ()
    """Pages that the policy wants to read: sources (or titles) of documents that the episode has shown."""
    error: str | None = None
    """What the policy is told if the call cannot be carried out."""


@dataclass(slots=True, unsafe_hash=True)  # read-only by convention; made at every step, and frozen ones cost more
class ParsedAction:
    """The action parsed from one turn of the policy."""

    kind: ActionKind
    content: str
    """The cleaned query of a search, the stripped prediction of an answer, empty for an invalid turn."""
    end: int | None = field(default=None, compare=False)
    """Number of characters up to the end of the element that decided; None if no single element did.

    Text after it (documents that the policy made up, later actions) does not stay in the context.
    """
    calls: tuple[ToolCall, ...] = ()
    """The calls of a turn in a protocol with tools. An invalid turn with calls gets their errors as its observation."""

    @property
    def queries(self) -> tuple[str, ...]:
        """The query of each search of this turn."""
        if self.calls:
            return tuple(query for call in self.calls for query in call.queries)
        return (self.content,) if self.kind == "search" else ()


INVALID = ParsedAction("invalid", "")
"""The action of every turn that neither searches nor answers."""


def clean_message(message: str) -> str:
    """What a failed tool says, on one line and without tags that would act."""
    return defuse_tags(visible(message))


@dataclass(frozen=True)
class Protocol:
    """How a policy and the environment communicate: the tags and limits of one family of search agents.

    The functions are pure and take linear time in the length of their input. `parse` only sees text that the policy
    wrote.
    """

    name: str
    stop_strings: tuple[str, ...]
    """Strings after which a sampler stops; they are kept in the text. Empty: only the end-of-sequence token ends a
    turn."""
    prompt_template: str
    """The instruction, in this package's own words; contains `{question}`."""
    max_turns: int
    """Number of turns that may search. One more turn follows, which may only answer."""
    top_k: int
    """Documents per search."""
    turn_tokens: int
    """Maximum number of tokens that the policy may write in one turn."""
    context_tokens: int
    """Maximum number of tokens of a whole episode: prompt, turns and documents."""
    parse: Callable[[str], ParsedAction]
    """Parses the policy's text of one turn. An action with `end` set cuts the turn there in `Episode.text`."""
    render_documents: Callable[[Sequence[Document], str], str]
    """(documents, query) -> the information block with its surrounding white space. Tags in documents are defused."""
    invalid_notice: str | None
    """This package's own observation after an invalid turn. None: an invalid turn ends the episode (`NO_ACTION`)."""
    last_turn_notice: str
    """This package's own text, appended to the observation when the next turn may only answer."""
    render_search: Callable[[str], str]
    """Query -> a well-formed turn that searches for it."""
    render_answer: Callable[[str], str]
    """Answer -> a well-formed turn that gives it."""
    reference_invalid_notice: str | None = None
    """What the published loop shows after an invalid turn, in this package's own words, with the placement and white
    space of the original. None: the published loop ends the episode. No published loop announces the last turn."""
    observation_role: Literal["assistant", "tool"] = "assistant"
    """Whether an observation continues the policy's own turn, or is a message of its own, which a chat model's template
    frames."""
    render_message: Callable[[str, str], str] | None = None
    """(cleaned message, query) -> the observation if the search tool says that it failed. None: the block of one
    document with this text."""
    render_call: Callable[[ToolCall, Sequence[Sequence[Document]]], str] | None = None
    """(call, documents of each of its queries or pages) -> what the policy is told about one call, without tags. None:
    the protocol has no tools, and a turn makes at most one search."""
    call_tags: tuple[str, str] = ("", "")
    """What stands before and after each of these texts in an observation."""
    tools: tuple[JsonObject, ...] = field(default=(), hash=False)
    """The functions that the policy may call, in the form of `apply_chat_template(tools=...)`. `prompt_template` holds
    them as text."""
    tool_prompt_template: str | None = None
    """The instruction without the functions, for chat templates that write `tools` themselves; contains `{question}`.
    None: the protocol has no tools."""

    def show_message(self, message: str, query: str) -> str:
        """The observation if the search tool says that it failed."""
        if self.render_message is None:
            return self.render_documents((Document("", message),), query)
        return self.render_message(clean_message(message), query)

    def __reduce_ex__(self, version: SupportsIndex) -> str | tuple[Any, ...]:
        """Pickle and copy a registered protocol by its name, so that the result is the registered object itself."""
        if PROTOCOLS.get(self.name) is self:
            return get_protocol, (self.name,)
        return object.__reduce_ex__(self, version)


_REGISTERED: dict[str, Protocol] = {}

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(_REGISTERED)
"""Every registered protocol, by name."""


_TAG = re.compile(r"<[^<>\s][^<>]{0,40}>")
_CLOSING = re.compile(r"</\w+>")


def own_tags(protocol: Protocol) -> set[str]:
    """The tags of the actions that a protocol renders."""
    shown = set(_TAG.findall(protocol.render_search("words") + protocol.render_answer("words")))
    return shown - {"<think>", "</think>"}


def check_protocol(protocol: Protocol) -> Protocol:
    """Check that the parts of a protocol fit together; `dataclasses.replace` may have changed some of them.

    Returns:
        The protocol.

    Raises:
        ConfigError: `observation_role` and `render_call` do not agree; `parse` does not recognise a turn that the
            protocol itself renders, or the text up to the first stop string of such a turn; or a stop string closes a
            tag that no such turn has. With such a protocol every turn of a policy would be invalid.
    """
    name, stops = protocol.name, protocol.stop_strings
    if not isinstance(stops, tuple) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ConfigError(f"protocol {name!r}: stop_strings must be a tuple of non-empty strings, got {stops!r}.")
    if (protocol.observation_role == "tool") != (protocol.render_call is not None):
        raise ConfigError(
            f"protocol {name!r}: observation_role is {protocol.observation_role!r}, and render_call is "
            f"{'missing' if protocol.render_call is None else 'given'}. Observations are messages of their own exactly "
            'if the policy calls tools: give render_call together with observation_role="tool".'
        )
    for kind, render in (("search", protocol.render_search), ("answer", protocol.render_answer)):
        turn = render("words")
        end = min((turn.find(stop) + len(stop) for stop in stops if stop in turn), default=len(turn))
        got = protocol.parse(turn[:end]).kind
        if got != kind:
            raise ConfigError(
                f"protocol {name!r}: parse reads {turn[:end]!r}, the turn that render_{kind} writes, as {got!r} "
                f"instead of {kind!r}. parse, render_search, render_answer and stop_strings must fit together: replace "
                "all of them that name the tags."
            )
    for stop in stops:
        if _CLOSING.fullmatch(stop) and stop not in own_tags(protocol):
            raise ConfigError(
                f"protocol {name!r}: a sampler stops at {stop!r}, but no action ends with it; parse reads "
                f"{', '.join(sorted(own_tags(protocol)))}. Replace parse, render_search and render_answer as well."
            )
    return protocol


def check_prompt(protocol: Protocol, template: str) -> None:
    """Check that an instruction that shows tags shows some of the protocol's.

    Raises:
        ConfigError: it shows only others, so a policy that follows it makes no valid turn.
    """
    shown = set(_CLOSING.findall(template)) - {"</think>"}
    if shown and not any(tag in template for tag in own_tags(protocol)):
        raise ConfigError(
            f"the prompt shows {', '.join(sorted(shown))}, but protocol {protocol.name!r} reads "
            f"{', '.join(sorted(own_tags(protocol)))}: every turn of a policy that follows it would be invalid. Choose "
            "the protocol that reads these tags, or give a Protocol whose parse does."
        )


def with_stop_string(text: str, protocol: Protocol) -> str:
    """The text of a turn with the stop string that most servers cut off; any other text is returned unchanged.

    Args:
        text: what the server returned for a request that stops at `protocol.stop_strings`.
        protocol: the protocol.

    Returns:
        The text up to the end of its action. Of two open tags, the inner one is closed.
    """
    stops = protocol.stop_strings
    if any(stop in text for stop in stops):
        return text  # a server that stops would have cut the first one off
    closed = [f"{text}{stop}" for stop in stops]
    actions = [(protocol.parse(turn), turn) for turn in closed]
    acting = [
        (len(action.content), turn) for action, turn in actions if action.kind != "invalid" and action.end == len(turn)
    ]
    return min(acting)[1] if acting else text


def register_protocol(protocol: Protocol) -> None:
    """Make a protocol available under its name.

    Args:
        protocol: the protocol; users select it with `protocol=` and its `name`.

    Raises:
        ConfigError: the argument is not a `Protocol`, its parts do not fit together, or another protocol has the same
            name.
    """
    if not isinstance(protocol, Protocol):
        raise ConfigError(f"expected a Protocol, got {protocol!r}.")
    check_protocol(protocol)
    if _REGISTERED.setdefault(protocol.name, protocol) is not protocol:
        raise ConfigError(f"a protocol named {protocol.name!r} is already registered; choose another name.")


def get_protocol(name: str | Protocol) -> Protocol:
    """Look up a protocol by name; a `Protocol` object is checked and returned unchanged.

    Raises:
        ConfigError: the name is unknown, the parts of a `Protocol` do not fit together, or the argument is neither.
    """
    if isinstance(name, Protocol):
        return check_protocol(name)
    if not isinstance(name, str):
        raise ConfigError(f"protocol must be a name or a Protocol, got {name!r}. Names: {', '.join(PROTOCOLS)}.")
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
