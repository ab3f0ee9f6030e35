"""Prompts as token ids, for the backends that run a model in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a prompt: inside the tokenizer's chat template where it has one, else the bare text.

    Models that can think before they answer are asked not to: the documents are wanted, and thoughts take time.
    """
    if getattr(tokenizer, "chat_template", None):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True, enable_thinking=False
        )
        if isinstance(ids, Mapping):
            ids = ids["input_ids"]
    else:
        ids = tokenizer(text)["input_ids"]
    return [int(token) for token in ids]


def cut_at_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The text in front of the first stop text, and whether there was one."""
    found = [position for word in stop if (position := text.find(word)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def too_long(prompt_tokens: int, max_tokens: int, context_tokens: int) -> str | None:
    """Why a prompt and its completion do not fit into a model's context; None when they do."""
    if prompt_tokens + max_tokens <= context_tokens:
        return None
    return (
        f"the prompt has {prompt_tokens} tokens and the completion may take {max_tokens}, more than the model's "
        f"context of {context_tokens}: lower max_tokens or top_k, or take a model with a longer context"
    )
