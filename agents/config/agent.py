"""How an agent is asked and shown what it searched: the options that every command has in place of a card's entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

RULE_OPTIONS = ("protocol", "prompt_template", "max_turns", "top_k", "invalid_notice", "last_turn_notice", "few_shot")
"""The options that are rules of an episode (arguments of `make_rules`)."""
FORMAT_OPTIONS = ("chat", "system", "thinking", "tools", "prefill", "max_observation_tokens")
"""The options that decide how texts become tokens (fields of `PromptFormat`)."""

Chat = Literal["auto", "on", "off"]
CHAT = {"auto": None, "on": True, "off": False}
"""The words of the option `chat`, and the value of each on a card."""


@dataclass(frozen=True, kw_only=True)
class AgentChoices:
    """What a command decides about its agents.

    An option that is unset has the value of the agent's card, else of its protocol.
    """

    protocol: str | None = None
    """Tag grammar of every agent: a name, or your own file.py:attribute; unset: that of its card, else
    "zerosearch"."""
    prompt_template: str | None = None
    """The instruction: a text or a file that contains {question}, or "dataset" for the prompts in the rows of the
    dataset."""
    few_shot: str | None = None
    """Worked examples that are shown before the instruction: a text or a file."""
    max_turns: int | None = None
    """Number of turns that may search. One last turn follows, which may only answer."""
    top_k: int | None = None
    """Documents per search."""
    invalid_notice: str | None = None
    """What follows an invalid turn: "own" (this package's words), "reference" (as published), "none", or a text."""
    last_turn_notice: str | None = None
    """The text before the last turn: "own", "reference", "none", or a text."""
    chat: Chat | None = None
    """Whether prompts and observations go through the tokenizer's chat template; "auto": if it has one."""
    system: str | None = None
    """With chat: the system message."""
    thinking: bool | None = None
    """With chat: the template's enable_thinking."""
    tools: bool | None = None
    """With chat: whether the protocol's functions are passed to the template."""
    prefill: str | None = None
    """With chat: text with which every turn of the policy begins, for example <think>."""
    max_observation_tokens: int | None = None
    """Observations are cut to this many tokens."""

    # Any: the values are checked where they are used
    def given(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of these options that are set."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
