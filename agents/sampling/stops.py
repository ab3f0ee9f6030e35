"""Find stop strings in sampled text without decoding every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "�"


class StopFinder:
    """Checks whether the last tokens of a turn contain a stop string.

    A token can complete a stop string only if its text contains the string's last character, so decoding happens
    only for such tokens (`candidates`). A token with a part of a multi-byte character is a candidate if some stop
    string ends with a non-ASCII character.

    Attributes:
        candidates: shape `(vocab_size,)`, bool; True where a token may complete a stop string.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str], vocab_size: int) -> None:
        if isinstance(stop_strings, str) or not all(stop_strings):
            raise ConfigError(f"stop_strings must be a sequence of non-empty strings, got {stop_strings!r}.")
        self.stop_strings = tuple(stop_strings)
        self._tokenizer = tokenizer
        self.candidates: NDArray[np.bool_] = np.zeros(vocab_size, dtype=np.bool_)
        if not self.stop_strings:
            return
        # Every token adds at least one byte; a few special tokens and the first of the window may add none, hence + 8.
        self._window = max(len(stop.encode()) for stop in self.stop_strings) + 8
        finals = {stop[-1] for stop in self.stop_strings}
        wide = any(not char.isascii() for char in finals)
        count = min(vocab_size, len(tokenizer))
        for token, piece in enumerate(_pieces(tokenizer, count)):
            self.candidates[token] = any(char in piece for char in finals) or (wide and _REPLACEMENT in piece)

    def completed(self, turn_ids: Sequence[int] | NDArray[np.int64]) -> bool:
        """Whether the text of the turn's last tokens contains a stop string.

        Args:
            turn_ids: the tokens sampled in this turn, the newest last; call it only if that one is a candidate.
        """
        text = decode(self._tokenizer, turn_ids[-self._window :])
        return any(stop in text for stop in self.stop_strings)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int] | NDArray[np.int64]) -> str:
    """Decode token ids, including special tokens, without cleaning up spaces."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _pieces(tokenizer: PreTrainedTokenizerBase, count: int) -> list[str]:
    """The text of every token. Some decoders strip a leading space; a space is added for tokens that start with one."""
    singles = tokenizer.batch_decode(
        [[token] for token in range(count)], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    raw = tokenizer.convert_ids_to_tokens(list(range(count)))
    return [single + " " * ((token or "")[:1] in ("▁", " ")) for single, token in zip(singles, raw, strict=True)]
