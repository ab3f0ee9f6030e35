"""The tokenizer of the tiny models: byte-level BPE learnt from the synthetic world, each tag one token.

Byte-level means that any Unicode text can be encoded and decodes to itself; tags as tokens means that a tiny model
spends one step on a tag.
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
    """Learn a byte-level BPE.

    Args:
        texts: what to learn the merges from; the same texts in the same order give the same tokenizer.
        vocab_size: most tokens in all: pad, end of sequence, the tags, 256 bytes and the merges. Texts with fewer
            different pieces give a smaller vocabulary.
        tags: texts that are one token each and are kept when decoding.
        pieces: a pre-tokenizer of `tokenizers` that ends in bytes: what no merge crosses; None: GPT-2's words.

    Raises:
        ConfigError: when `vocab_size` leaves no room for the bytes.
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
