"""What a protocol is, what a turn is parsed to, and the protocols by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, SupportsIndex

from ..errors import ConfigError, unknown_name
from ..types import ActionKind, Document


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """One turn of the policy, reduced to what it does."""

    kind: ActionKind
    content: str
    """The cleaned query of a search, the stripped prediction of an answer, empty for an invalid turn."""


INVALID = ParsedAction("invalid", "")
"""The one action of every turn that neither searches nor answers."""


@dataclass(frozen=True)
class Protocol:
    """How a policy and its environment talk: the tags of one family of search agents, and its limits.

    The functions are pure and take linear time in the length of their input. `parse` sees the policy's own turn only.
    """

    name: str
    stop_strings: tuple[str, ...]
    """What a sampler stops after; kept in the text. Empty: the turn ends at the end-of-sequence token alone."""
    prompt_template: str
    """The instruction, in this package's own words; contains `{question}`."""
    max_turns: int
    """Turns that may search; one last turn that may only answer follows them."""
    top_k: int
    """Documents a search."""
    turn_tokens: int
    """Tokens that the policy may write in one turn."""
    context_tokens: int
    """Tokens of a whole episode: prompt, turns and documents."""
    parse: Callable[[str], ParsedAction]
    """The policy's text of one turn to what it does."""
    render_documents: Callable[[Sequence[Document], str], str]
    """(documents, query) to the information block with its surrounding white space; tags in documents are defused."""
    invalid_notice: str | None
    """What the policy is told after an invalid turn. None: an invalid turn ends the episode (`NO_ACTION`)."""
    last_turn_notice: str
    """Appended to the observation when only an answer is allowed next."""
    render_search: Callable[[str], str]
    """A query to a well-formed turn that searches for it."""
    render_answer: Callable[[str], str]
    """An answer to a well-formed turn that gives it."""

    def __reduce_ex__(self, version: SupportsIndex) -> str | tuple[Any, ...]:
        """Registered protocols are pickled and copied by name, so that they stay identical to the registered object."""
        if PROTOCOLS.get(self.name) is self:
            return get_protocol, (self.name,)
        return object.__reduce_ex__(self, version)


_REGISTERED: dict[str, Protocol] = {}

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(_REGISTERED)
"""Every registered protocol by its name."""


def register_protocol(protocol: Protocol) -> None:
    """Make a protocol available by its name.

    Args:
        protocol: the protocol; its `name` is what users pass as `protocol=`.

    Raises:
        ConfigError: another protocol has that name.
    """
    if not isinstance(protocol, Protocol):
        raise ConfigError(f"expected a Protocol, got {protocol!r}.")
    if _REGISTERED.setdefault(protocol.name, protocol) is not protocol:
        raise ConfigError(f"a protocol named {protocol.name!r} is registered already; choose another name.")


def get_protocol(name: str | Protocol) -> Protocol:
    """A protocol by name; a `Protocol` object is returned as it is.

    Raises:
        ConfigError: for an unknown name, or something that is neither.
    """
    if isinstance(name, Protocol):
        return name
    if not isinstance(name, str):
        raise ConfigError(f"protocol must be a name or a Protocol, got {name!r}. Names: {', '.join(PROTOCOLS)}.")
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
