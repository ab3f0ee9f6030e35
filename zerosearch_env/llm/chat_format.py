"""How an episode becomes tokens for a chat model or a plain one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptFormat:
    """The choices of a policy's card that decide how prompts and observations become tokens."""

    chat: bool = False
    """Whether prompts go through the tokenizer's chat template."""
    system: str | None = None
    """System message before the prompt; None: none, `""`: an empty one."""
    thinking: bool | None = None
    """The chat template's `enable_thinking`; None: it is not set."""
    tools: bool = True
    """Whether the protocol's functions are passed to the chat template."""
    prefill: str = ""
    """Text with which the policy's first turn begins."""
    max_observation_tokens: int | None = None
    """Observations are cut to this many tokens; None: no limit."""
