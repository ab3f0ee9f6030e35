"""Make the tiny simulation LLM from the synthetic world only; the defaults reproduce the shipped one.

It is trained on searches in train worlds, written with the simulated engine's prompt "tiny", and on the documents that
the corpus engine returns for them (`world.py`). The result is an ordinary Transformers directory. The engine
"simulated:tiny" uses the shipped one, and "simulated:hf:DIRECTORY" any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zerosearch_env.checks import check_number
from zerosearch_env.datasets.world.names import (
    FIRST_NAMES,
    LAST_NAMES,
    ORGANISATION_ROOTS,
    ORGANISATION_WORDS,
    PLACE_ROOTS,
    REGION_WORDS,
    TITLE_ADJECTIVES,
    TITLE_NOUNS,
    TOWN_WORDS,
)
from zerosearch_env.datasets.world.text import RELATIONS
from zerosearch_env.engines.simulated.card import SimulatorCard
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of
from zerosearch_env.errors import require
from zerosearch_env.randomness import mix
from zerosearch_env.types import Document

from ...config.tiny import ScratchConfig
from ...policy.files import check_replaceable
from ...sft.fit import FitOptions, fit, one_thread
from ...sft.rows import Row, Segment, encode_rows
from ...tiny.tokenizer import EOS
from ..pairs.pair import target_text
from .world import COUNTS, Search, SearchWriter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FIRST_WORLD = 3_000_000
"""Seeds of its training worlds start here, far from the seeds that users choose and those of the tiny policy."""

PIECES = r"Doc \d+: \(Title:| ?[a-z]+(?: [a-z]+)*| ?[A-Z][a-z]*| ?\p{L}+| ?\d+| ?[^\s\p{L}\d]+|\s+"
"""Pieces that the tokenizer may merge into one token. Runs of lower-case words are one piece, since passages use few
phrases. Each word of a name is a separate piece, so that it is the same token wherever it is copied to."""

_OPTIONS = SimulationOptions(prompt="tiny")


@dataclass(frozen=True)
class TinySimulatorConfig(ScratchConfig):
    """Make `simulated:tiny` from scratch, from the synthetic world; the defaults reproduce the shipped model."""

    output: str = "runs/simulator-tiny"
    """Directory of the result. An existing policy or simulator in it is replaced."""
    vocab_size: int = 3584
    """Vocabulary size; the world's names need about 2,000 tokens."""
    tokens: float = 8e6
    """Token budget, prompts included."""
    batch_tokens: int = 1500
    """Approximate number of tokens per optimizer step (texts are not split)."""
    learning_rate: float = 2e-3
    """Peak AdamW learning rate: 50 warm-up steps, then half-cosine decay to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "learning_rate"):
            check_number(name, getattr(self, name), above=0)


class PairWriter:
    """Turns searches and documents into rows; opens a new world every `searches_per_world` searches.

    Args:
        tokenizer: converts texts to token ids.
        seed: random seed of the worlds and all draws.
        searches_per_world: number of searches in one world before the next is opened.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int, searches_per_world: int = 4000) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.searches_per_world = searches_per_world
        self.world, self.written = 0, searches_per_world
        self.rng = np.random.default_rng(mix(seed, 1))
        self.names = {i for words in _NAME_WORDS for i in single_tokens(tokenizer, words)}
        self.writer: SearchWriter

    def rows(self, count: int, progress: float = 0.0) -> list[Row]:
        """The next `count` rows.

        The first part of the training uses sets of one or two documents, where less text surrounds the words to copy.
        Names that cannot be predicted from the context are mostly excluded from the loss until late in training: they
        teach only how frequent each name is, and their loss would dominate the learnable part.
        """
        if self.written >= self.searches_per_world:
            # Names recur more or less often, as in users' worlds.
            self.writer = SearchWriter(_world_seed(self.seed, self.world), (2000, 6000, 12000)[self.world % 3])
            self.world, self.written = self.world + 1, 0
        self.written += count
        drawn = self.writer.draw(count, self.rng, few=progress < _FEW)
        rows = encode_rows(self.tokenizer, [pair_text(*pair) for pair in drawn])
        if progress < _ALL_NAMES:
            for row in rows:
                self._leave_out_new_names(row)
        return rows

    def _leave_out_new_names(self, row: Row) -> None:
        seen: set[int] = set()
        for i, token in enumerate(row.ids):
            if token in self.names and token not in seen:
                seen.add(token)
                if row.trained[i] and self.rng.random() >= _NEW_NAMES:
                    row.trained[i] = False


def pair_text(search: Search, documents: tuple[Document, ...]) -> list[Segment]:
    """The engine's prompt (not trained on) and the documents that answer it (trained on)."""
    prompt = prompt_of(search.request, search.request.noisy is True, _OPTIONS)
    return [(prompt, False), (target_text(documents) + EOS, True)]


def run_tiny(config: TinySimulatorConfig, *, command: str = "") -> dict[str, Any]:
    """Train the tiny simulation LLM and save it; progress is printed.

    Training uses one thread unless `OMP_NUM_THREADS` is set.

    Args:
        config: the options.
        command: ignored; the configuration determines everything.

    Returns:
        The model's directory and the number of training tokens.

    Raises:
        ConfigError: the architecture is not possible, or the output directory holds something else.
        TrainingError: the loss is not finite.
        MissingExtraError: torch or transformers is not installed.
    """
    output = Path(config.output)
    check_replaceable(output)
    require("torch")
    require("transformers")
    from ...forward.attention import use_block_attention
    from ...policy.policy import save_model
    from ...tiny.induction import new_tiny_model

    with one_thread():
        tokenizer = learn_tokenizer(config.seed, config.vocab_size)
        model = new_tiny_model(config, tokenizer, seed=config.seed)
        group_names(model, tokenizer, seed=config.seed)
        look_at_relations(model, tokenizer, seed=config.seed)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
        use_block_attention(model)
        card = SimulatorCard(_OPTIONS.style.id, max(COUNTS), "tiny, from scratch")
        options = FitOptions(
            name="simulator",
            tokens=int(config.tokens),
            batch_tokens=config.batch_tokens,
            peak=config.learning_rate,
            floor=0.0,
            dtype=config.dtype,
            save_every_minutes=config.save_every_minutes,
        )

        def save() -> None:
            save_model(model, tokenizer, output, dtype="bfloat16", write_more=card.write)

        fit(model, PairWriter(tokenizer, config.seed).rows, options, save)
    return {"tokens": int(config.tokens), "model": str(output)}


def learn_tokenizer(seed: int, vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE over `PIECES`, trained on worlds of this seed; every word of a name is one token."""
    from tokenizers import Regex, pre_tokenizers

    from ...tiny.tokenizer import build_tokenizer

    pieces = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    def texts() -> Iterator[str]:
        for _ in range(_WORD_REPEATS):
            yield "".join(f" {word}" for words in _NAME_WORDS for word in words)
        rng = np.random.default_rng(mix(seed, 2))
        for world in range(3):
            writer = SearchWriter(_world_seed(seed, world, 2), 6000)
            for drawn in writer.draw(3000, rng):
                yield "".join(text for text, _ in pair_text(*drawn)).removesuffix(EOS)

    return build_tokenizer(texts(), vocab_size, tags=(), pieces=pieces)


def single_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """The ids of those words that are a single token, with a leading space."""
    return [piece[0] for piece in tokenizer([f" {word}" for word in words])["input_ids"] if len(piece) == 1]


def group_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Give all words of one list the same values in the first dimensions of their embeddings.

    The model can then learn for a whole list which words fit in a place (a first name, the root of a town's name, a
    year), instead of learning it for each of 1,700 words.

    Args:
        model: a model just after `induction_init`, with tied embeddings and a constant first dimension.
        tokenizer: its tokenizer.
        seed: random seed of the shared vectors.
    """
    import torch

    generator = torch.Generator().manual_seed(mix(seed, 3) >> 1)
    embeddings: Any = model.get_input_embeddings()
    weight = embeddings.weight
    with torch.no_grad():
        for words in _NAME_WORDS:
            if ids := single_tokens(tokenizer, words):
                weight[ids, 1 : 1 + _SHARED] = 0.8 * torch.randn(_SHARED, generator=generator)


def look_at_relations(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Initialise a head of layer 1 to attend to the relation that is asked for ("spouse of"), at any position.

    This one token determines which of the subject's passages answers a search, and a tiny model takes long to find it.
    The relation tokens share dimensions of their embeddings, as the words of a list do in `group_names`. The head's key
    has two entries: the product with the shared vector, and a constant. Its query selects the product, so that it
    attends to relation tokens. Everything stays trainable.

    Args:
        model: a model just after `induction_init`, with at least 3 heads.
        tokenizer: its tokenizer.
        seed: random seed of the shared vector.
    """
    import torch

    generator = torch.Generator().manual_seed(mix(seed, 4) >> 1)
    config, body = model.config, cast(Any, model).model
    width, head_dim = config.hidden_size, config.head_dim
    shared = 0.8 * torch.randn(_SHARED, generator=generator)
    head, slowest = slice(2 * head_dim, 3 * head_dim), head_dim // 2 - 1  # the last rotary pair is the slowest
    query, key = torch.zeros(head_dim, width), torch.zeros(head_dim, width)
    query[slowest, 0] = 1.0
    key[slowest, 1 : 1 + _SHARED] = shared
    key[slowest - 1, 0] = 0.4 * float(shared.square().sum())  # with the constant 2: 0.8 of a relation's own product
    with torch.no_grad():
        relations = single_tokens(tokenizer, [f"{relation.noun} of" for relation in RELATIONS])
        body.embed_tokens.weight[relations, 1 : 1 + _SHARED] = shared
        attention = body.layers[1].self_attn
        attention.q_proj.weight[head], attention.k_proj.weight[head] = query, key
        attention.v_proj.weight[head] = torch.randn(head_dim, width, generator=generator) / width**0.5
        attention.o_proj.weight[:, head] = torch.randn(width, head_dim, generator=generator) / width**0.5


def _world_seed(seed: int, *path: int) -> int:
    return FIRST_WORLD + mix(seed, *path) % FIRST_WORLD


_NAME_WORDS: tuple[Sequence[str], ...] = (
    *(FIRST_NAMES, LAST_NAMES, PLACE_ROOTS, ORGANISATION_ROOTS, ORGANISATION_WORDS, REGION_WORDS, TOWN_WORDS),
    *(TITLE_ADJECTIVES, TITLE_NOUNS, tuple(map(str, range(1600, 1961)))),
)
"""The words that names are made of, and years."""

_NEW_NAMES = 0.2
"""Share of the first occurrences of a name in a text that are trained on in the early part of training."""

_ALL_NAMES = 0.65
"""Progress in [0, 1] after which all of them are trained on."""

_SHARED = 20
"""Number of embedding dimensions that the words of one list, or all relations, share initially."""

_FEW = 0.2
"""Progress in [0, 1] until which sets have one or two documents."""

_WORD_REPEATS = 100
"""How often the tokenizer's training text repeats every word of a name, in addition to its natural occurrences."""
