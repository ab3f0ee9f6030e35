"""Prompts and ends of completions, for simulation LLMs that run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .chat_template import turn_end
from .tokens import encode_chats, encode_prompts


# Any: tokenizers of Transformers have no common type without importing it
def prompt_ids(
    tokenizer: Any,
    text: str,
    *,
    system: str | None = None,
    prefill: str = "",
    history: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """Return the token ids of a prompt, in the tokenizer's chat template if it has one, else as plain text.

    Thinking is switched off for models that support it: only the documents are needed, and thinking takes time.

    Args:
        tokenizer: a tokenizer of Transformers.
        text: the prompt.
        system: system message of the chat template; "" is an empty one, None none.
        prefill: beginning of the assistant's turn; it follows a plain text directly.
        history: earlier messages, (role, content) each; as plain text their contents, one after the other.

    Raises:
        ConfigError: there is a system message and no chat template, or the template refuses the messages.
    """
    if getattr(tokenizer, "chat_template", None):
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages += [{"role": role, "content": content} for role, content in (*history, ("user", text))]
        return encode_chats([messages], tokenizer, prefill=prefill, enable_thinking=False)[0]
    if system is not None:
        raise ConfigError(
            "the option `system` needs a model with a chat template, and this one has none: leave `system` out, and "
            "begin the prompt with that text"
        )
    text = "".join([content for _, content in history]) + text
    return encode_prompts([f"{text}{prefill}"], tokenizer, questions=[text] if prefill else None)[0]


# Any: models and tokenizers of Transformers have no common type without importing it
def end_ids(model: Any, tokenizer: Any, vocab_size: int) -> set[int]:
    """The ids that end a sequence, from the configurations of generation and model, the tokenizer and its template.

    The tokenizer of a base model may come with a chat template that ends turns with another token than the tokenizer's
    end of sequence. The set may be empty: then only stop strings and length limits end a text.
    """
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids |= {value} if isinstance(value, int) else set(value or ())
    closing = turn_end(tokenizer)
    ids |= set() if closing is None else {closing}
    return {token for token in ids if 0 <= token < vocab_size}


def cut_at_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Return the text before the first stop string, and whether one was found."""
    positions = [position for word in stop if (position := text.find(word)) >= 0]
    return (text[: min(positions)], True) if positions else (text, False)


def too_long(prompt_tokens: int, max_tokens: int, context_tokens: int) -> str | None:
    """Explain why a prompt and its completion do not fit into a model's context; None if they fit."""
    if prompt_tokens + max_tokens <= context_tokens:
        return None
    return (
        f"the prompt has {prompt_tokens} tokens and the completion may take {max_tokens}, more than the model's "
        f"context of {context_tokens}: lower max_tokens or top_k, or use a model with a longer context"
    )
