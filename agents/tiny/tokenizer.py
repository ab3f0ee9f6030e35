"""The tokenizer of the tiny models: byte-level BPE trained on the synthetic world, with one token per tag.

Because it is byte-level, any Unicode string can be encoded and decodes to itself. Because each tag is a single token, a
tiny model needs only one step to write one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS = "<|pad|>", "<|eos|>"
_BYTES = 256
TAGS = tuple(f"<{slash}{name}>" for name in ("think", "search", "information", "answer") for slash in ("", "/"))
"""The tags of the protocol "zerosearch"."""


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, *, tags: tuple[str, ...] = TAGS, pieces: Any = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: training texts; the same texts in the same order give the same tokenizer.
        vocab_size: maximum number of tokens: pad, end of sequence, tags, 256 bytes and merges. Texts with few
            different pieces give a smaller vocabulary.
        tags: strings that are one token each and are kept when decoding.
        pieces: a pre-tokenizer of the `tokenizers` library that outputs bytes; no merge crosses the borders of its
            pieces. None splits into words as GPT-2 does.

    Raises:
        ConfigError: `vocab_size` is too small for the bytes, tags and special tokens.
    """
    least = 2 + _BYTES + len(tags)
    if vocab_size < least:
        raise ConfigError(f"vocab_size must be at least {least} (bytes, tags, pad, end), got {vocab_size}.")

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pieces or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(tags),
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )
