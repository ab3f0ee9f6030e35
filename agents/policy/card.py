"""The card of a policy: how it acts in the environment, stored in `zerosearch.json` next to its weights.

Options of a command take precedence over the card, and the card over the protocol. An entry that is None takes the
value of the protocol.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from zerosearch_env.checks import check_whole_number, make_options
from zerosearch_env.errors import CheckpointError, ConfigError, unknown_name
from zerosearch_env.game.rules import Rules, agent_rules, choose_notices
from zerosearch_env.llm.chat_format import PromptFormat
from zerosearch_env.llm.chat_template import shows_episodes
from zerosearch_env.protocols import PROTOCOLS, Protocol, get_protocol
from zerosearch_env.protocols.prompts import DATASET_PROMPT, PLACEHOLDER

from ..config.agent import CHAT
from .files import read_json

CARD_FILE = "zerosearch.json"
CARD_VERSION = 1
DEFAULT_CONTEXT = 4096
"""Maximum tokens per episode of a policy that states none, whatever its protocol allows."""
PASSAGE_TOKENS = 164
"""Tokens of a passage of Wikipedia, with its title and its place in the list: five were 818 on average."""
_PROMPT_CHARACTERS, _QUESTION_TOKENS = 4, 32
"""Characters per token of an instruction, and tokens of a question with a template's own: enough for a warning."""
_COUNTS = ("turn_tokens", "context_tokens", "max_turns", "top_k", "max_observation_tokens")
_TEXTS = ("protocol", "prompt_template", "system", "prefill", "invalid_notice", "last_turn_notice", "few_shot")
_SWITCHES = ("chat", "thinking", "tools")


@dataclass(frozen=True, slots=True)
class AgentCard:
    """How a policy acts in the environment."""

    protocol: str | None = None
    """Name of the registered protocol (tag grammar) that it was trained with; None: the protocol of the command or the
    environment that plays it, `"zerosearch"` unless another is chosen."""
    prompt_template: str | None = None
    """The prompt it was trained with, containing `{question}`; `"dataset"`: the prompts in the rows of the dataset;
    None: the protocol's prompt."""
    turn_tokens: int | None = None
    """Maximum tokens that it samples per turn; None: the protocol's."""
    context_tokens: int | None = None
    """Maximum tokens per episode: prompt, sampled and environment tokens together; None: the protocol's, at most
    `DEFAULT_CONTEXT`. The model's own context is never exceeded."""
    max_turns: int | None = None
    """Number of turns that may search; one more turn may only answer. None: the protocol's."""
    top_k: int | None = None
    """Documents per search; None: the protocol's."""
    chat: bool | None = None
    """Whether prompts go through the tokenizer's chat template; None: if it has one that can show an episode."""
    system: str | None = None
    """System message before the prompt, for `chat`; None: none, `""`: an empty one."""
    thinking: bool | None = None
    """The chat template's `enable_thinking`, for `chat`; None: it is not set."""
    tools: bool = True
    """Whether the protocol's functions are passed to the chat template, for `chat`."""
    prefill: str = ""
    """Text with which every turn of the policy begins, for example `"<think>"`, for `chat`; it is not sampled."""
    max_observation_tokens: int | None = None
    """Observations are cut to this many tokens; None: no limit."""
    invalid_notice: str = "own"
    """What follows an invalid turn: `"own"`, this package's notice; `"reference"`, what the published loop does;
    `"none"`, an empty observation; otherwise the text itself."""
    last_turn_notice: str = "own"
    """The text before the last turn: `"own"`, `"reference"`, `"none"`, or the text itself."""
    few_shot: str | None = None
    """Worked examples that are shown before the instruction, with a blank line between; None: none."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value has the wrong type or is out of range, or the protocol is unknown.
        """
        optional = {entry.name for entry in fields(AgentCard) if entry.default is None}
        for names, kind, what in ((_TEXTS, str, "a string"), (_SWITCHES, bool, "true or false")):
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, kind) and not (value is None and name in optional):
                    raise ConfigError(f"{name} must be {what}{' or null' * (name in optional)}, got {value!r}.")
        for name in _COUNTS:
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name), hint="null uses the default.")
        protocol = get_protocol(self.protocol or "zerosearch")
        choose_notices(protocol, self.invalid_notice, self.last_turn_notice)
        self._format(chat=self.chat is not False)  # checked by its own class
        template = self.prompt_template
        if template is not None and template != DATASET_PROMPT and PLACEHOLDER not in template:
            raise ConfigError(
                f"prompt_template must contain {PLACEHOLDER}, or be {DATASET_PROMPT!r} for the prompts of the dataset; "
                f"got {template[:80]!r}. A card holds the text itself, not the name of a file."
            )

    @property
    def format(self) -> PromptFormat:
        """How prompts and observations become tokens. Undecided, `chat` is off; see `decide_chat`."""
        return self._format(chat=bool(self.chat))

    def _format(self, *, chat: bool) -> PromptFormat:
        entries = {entry.name: getattr(self, entry.name) for entry in fields(PromptFormat)}
        return PromptFormat(**entries | {"chat": chat})


def read_card(directory: str | os.PathLike[str]) -> AgentCard | None:
    """The card of a policy directory; None if it has none.

    Raises:
        CheckpointError: the file is damaged or of another version, has an unknown field, or a wrong value.
    """
    file = Path(directory) / CARD_FILE
    if not file.is_file():
        return None
    values = read_json(file)
    version = values.pop("version", CARD_VERSION)
    if version != CARD_VERSION:
        raise CheckpointError(f"{file} has version {version}; this release reads version {CARD_VERSION}.")
    try:
        return make_options(AgentCard, "field of the card", **values)
    except ConfigError as cause:
        raise CheckpointError(f"{file}: {cause}") from cause


def card_values(card: AgentCard) -> dict[str, Any]:
    """The content of `zerosearch.json`."""
    return {"version": CARD_VERSION} | {entry.name: getattr(card, entry.name) for entry in fields(card)}


def card_rules(rules: Rules, card: AgentCard) -> Rules:
    """The rules by which a policy plays: what was given to `make_rules`, then its card's, then its protocol's."""
    return agent_rules(
        rules,
        protocol=card.protocol,
        prompt_template=card.prompt_template,
        max_turns=card.max_turns,
        top_k=card.top_k,
        invalid_notice=card.invalid_notice,
        last_turn_notice=card.last_turn_notice,
        few_shot=card.few_shot,
    )


def wanted_context(card: AgentCard, protocol: Protocol) -> int:
    """Maximum tokens per episode that a card asks for, whatever the model's own context."""
    return card.context_tokens or min(protocol.context_tokens, DEFAULT_CONTEXT)


class TokenLimits(NamedTuple):
    """The limits of a sampler."""

    turn_tokens: int
    """Maximum tokens sampled per turn."""
    context_tokens: int
    """Maximum tokens per episode: prompt, sampled and environment tokens together."""


def token_limits(card: AgentCard, protocol: Protocol, longest: int | None = None) -> TokenLimits:
    """The limits of a policy: its card's or else its protocol's (`DEFAULT_CONTEXT`), within the model's own context.

    Args:
        card: the policy's card.
        protocol: the protocol that it plays.
        longest: the model's own context in tokens (`model_context`); None: no bound.
    """
    context = wanted_context(card, protocol)
    context = context if longest is None else min(context, longest)
    return TokenLimits(min(card.turn_tokens or protocol.turn_tokens, context), context)


# Any: a configuration of Transformers
def model_context(config: Any) -> int | None:
    """The number of tokens for which a model was made (`max_position_embeddings`); None if it does not say."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def changed_card(card: AgentCard, changes: Mapping[str, Any]) -> AgentCard:
    """The card with those of these values that are not None. `chat` may be a word of the option.

    Raises:
        ConfigError: a value is invalid.
    """
    values = {name: value for name, value in changes.items() if value is not None}
    chat = values.get("chat")
    if isinstance(chat, str):
        if chat not in CHAT:
            raise unknown_name("chat", chat, CHAT)
        values["chat"] = CHAT[chat]
    return replace(card, **values)


# Any: tokenizers of Transformers have no common type without importing it
def decide_chat(card: AgentCard, tokenizer: Any) -> AgentCard:
    """The card with `chat` on or off; undecided, it is on if the tokenizer's chat template can show an episode.

    Raises:
        ConfigError: `system`, `thinking` or `prefill` is set, and there is no such template.
    """
    return card if card.chat is not None else replace(card, chat=shows_episodes(tokenizer))


def trained_card(card: AgentCard, rules: Rules) -> AgentCard:
    """The card of a policy that is trained by these rules: what was given to `make_rules` becomes its own."""
    own = {name: value for name, value in rules.given.items() if name != "protocol"}
    if "prompt_template" in own:
        own["prompt_template"] = rules.prompt_template  # the text, not the name of its file
    if "few_shot" in own:
        own["few_shot"] = rules.few_shot
    name = rules.protocol.name
    return changed_card(card, own | {"protocol": name if PROTOCOLS.get(name) is rules.protocol else None})


def card_notes(name: str, directory: str | os.PathLike[str], card: AgentCard, rules: Rules) -> list[str]:
    """What a user should know before a policy is played: what is assumed, bounded, or not applied; one line each.

    Args:
        name: what the user calls the policy.
        directory: its directory.
        card: its card with the changes of the command, or the defaults.
        rules: the rules that the command gives; `card_rules` makes the policy's own of them.
    """
    directory, own = Path(directory), card_rules(rules, card)
    longest = _context_on_disk(directory)
    limits = token_limits(card, own.protocol, longest)
    notes = []
    if card.protocol is not None and own.protocol.name != card.protocol:
        notes.append(f"{name}: its card says protocol {card.protocol!r}; it plays {own.protocol.name!r}, as asked.")
    if not (directory / CARD_FILE).is_file():
        template = "the chat template of its tokenizer" if card.chat else "plain prompts (chat off)"
        notes.append(
            f"{name} has no card ({CARD_FILE}): it plays protocol {own.protocol.name!r} with {template}, "
            f"{counted(own.max_turns, 'turn')} that may search, {counted(own.top_k, 'document')} per search, "
            f"{limits.turn_tokens} tokens per turn and "
            f"{limits.context_tokens} per episode. If it was trained otherwise, say so with options such as --protocol "
            "and --chat, or with a card (docs/third-party-agents.md)."
        )
    wanted = wanted_context(card, own.protocol)
    if wanted > limits.context_tokens:
        notes.append(
            f"{name}: an episode has at most {limits.context_tokens} tokens, the model's own context, instead of "
            f"{wanted}."
        )
    stated = read_card(directory)
    fitting = searches_that_fit(card, own, limits)
    if fitting < own.max_turns and (stated is None or stated.context_tokens is None):
        notes.append(
            f"{name}: {limits.context_tokens} tokens hold {fitting} of {own.max_turns} searches if every turn takes "
            f"{limits.turn_tokens} tokens and every search brings {own.top_k} passages of real text, about "
            f"{PASSAGE_TOKENS} tokens each. Raise context_tokens, or set max_observation_tokens."
        )
    return notes


def counted(number: int, what: str) -> str:
    """A number with a noun, for example `"2 turns"`."""
    return f"{number} {what}{'s' * (number != 1)}"


def searches_that_fit(card: AgentCard, rules: Rules, limits: TokenLimits) -> int:
    """How many searches fit into a policy's context if every turn and every document is long.

    Args:
        card: the policy's card.
        rules: the rules by which it plays.
        limits: its token limits.
    """
    prompt = sum(map(len, rules.prompt_pieces)) // _PROMPT_CHARACTERS + _QUESTION_TOKENS
    observation = min(rules.top_k * PASSAGE_TOKENS, card.max_observation_tokens or limits.context_tokens)
    room = limits.context_tokens - prompt - limits.turn_tokens  # one more turn gives the answer
    return max(0, min(rules.max_turns, room // (limits.turn_tokens + observation)))


def has_chat_template(directory: Path) -> bool:
    """Whether the tokenizer in a directory has a chat template."""
    if (directory / "chat_template.jinja").is_file():
        return True
    file = directory / "tokenizer_config.json"
    return file.is_file() and bool(read_json(file).get("chat_template"))


def _context_on_disk(directory: Path) -> int | None:
    """As `model_context`, without loading the model."""
    values = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    nested = values.get("text_config")
    longest = (nested if isinstance(nested, dict) else values).get("max_position_embeddings")
    return longest if isinstance(longest, int) and longest > 0 else None
