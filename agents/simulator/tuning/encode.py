"""From pairs to training rows.

A prompt is encoded separately, exactly as a server will encode it; then the documents and the end token are appended.
Only these are trained on.
"""

from __future__ import annotations

from array import array
from typing import Any

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.chat import prompt_ids
from zerosearch_env.llm.tokens import encode_texts

from ...sft.rows import Row
from ..pairs.pair import Pair, prompt_text, target_text


def encode(pair: Pair, tokenizer: Any, max_tokens: int) -> Row | None:
    """The row of a pair, or None if it has more than `max_tokens` tokens.

    Raises:
        ConfigError: the tokenizer has no end token, so a model could not learn where to stop.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-sequence token: set eos_token in its tokenizer_config.json")
    prompt = prompt_ids(tokenizer, prompt_text(pair))
    target = [*encode_texts([target_text(pair.documents)], tokenizer)[0], tokenizer.eos_token_id]
    if len(prompt) + len(target) > max_tokens:
        return None
    # Arrays, because a file may hold a hundred thousand pairs.
    return Row(array("i", [*prompt, *target]), bytearray(len(prompt)) + b"\1" * len(target))
