"""`zerosearch pretrain`: train the tiny model that replaces a pretrained language model, on generated text only.

There are two stages, each with its own token budget:

1. base: documents with notes on their facts (`reading.py`), from one short document to five similar ones, and questions
   with the plan of their searches;
2. warm start: demonstrations of an imperfect searcher (`demonstrations.py`), mixed with base text so that the model
   does not forget how to read.

Both use only train worlds, with seeds different from those of the built-in dataset. The result is an ordinary policy
directory.

Each stage saves its result (`OUTPUT-base`, `OUTPUT-warm`, weights in bfloat16), and the next stage loads it from there.
Running the stages separately therefore gives bit-identical weights (on the same machine, with the same number of
threads).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from zerosearch_env.checks import check_number
from zerosearch_env.command_line import read_options
from zerosearch_env.datasets.world.make import WorldConfig, make_questions
from zerosearch_env.datasets.world.text import BY_NAME
from zerosearch_env.engines.corpus.engine import CorpusEngine
from zerosearch_env.errors import ConfigError, require
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.randomness import mix

from ..config.tiny import ScratchConfig
from ..policy.files import check_replaceable, local_policy
from ..sft.fit import FitOptions, fit, one_thread
from ..sft.rows import Row, Segment, encode_rows
from .demonstrations import Habits, demonstrate
from .reading import Library, need_text, notes_text, open_library
from .tokenizer import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "Question: {question}\n"
"""The tiny policy's prompt. It needs no instructions, since it is trained on this one task."""

BASE_HABITS = Habits(short_query=0.5, short_next_query=0.5, careless=0.5, search_again=0.5, next_hop=0.5)
"""Habits in the first stage's demonstrations: every behaviour appears, none dominates."""

FIRST_WORLD = 1_000_000
"""Seeds of pretraining worlds start here, far from the seeds that users choose."""


@dataclass(frozen=True)
class PretrainConfig(ScratchConfig):
    """Options of `zerosearch pretrain`; the defaults reproduce the shipped model."""

    start: str | None = None
    """A policy directory to start from; "tiny": the shipped one. Its architecture and tokenizer are kept; `hidden`,
    `layers`, `heads`, `mlp` and `vocab_size` are ignored."""
    vocab_size: int = 3328
    """Vocabulary size, tags included; the world's names need about 3,000 tokens."""
    dtype: Literal["bfloat16", "float32"] = "float32"  # many processors have no instructions for bfloat16
    """Data type of matrix products in training; weights and optimizer state are fp32."""
    base_tokens: float = 12e6
    """Token budget of the first stage, context included; 0 skips it. It stops after the step that reaches it."""
    warm_tokens: float = 3e6
    """Token budget of the second stage; 0 skips it."""
    learning_rate: float = 1e-3
    """Peak AdamW learning rate of the base stage: 50 warm-up steps, then half-cosine decay to a tenth of the peak."""
    warm_learning_rate: float = 1e-3
    """Peak AdamW learning rate of the second stage, which decays to zero."""
    base_demonstrations: float = 0.15
    """Share of the first stage's rows that are demonstrations, so that the model learns the tags."""
    warm_demonstrations: float = 0.6
    """Share of the second stage's rows that are demonstrations; the rest is base text."""
    two_hop_share: float = 0.65
    """Share of the demonstrations that are about two-hop questions."""
    habits: Habits = field(default_factory=Habits)
    """Habits of the searcher in the second stage; in the first stage all of these probabilities are 0.5."""
    slips: float = 0.01
    """Share of a demonstration's sampled tokens that are replaced by random ones, to learn to recover from mistakes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("base_tokens", "warm_tokens"):
            value = getattr(self, name)
            if not (value == 0 or 1 <= value < math.inf):
                raise ConfigError(f"{name} must be 0 (skip the stage) or a number of tokens, got {value!r}.")
        for name in ("learning_rate", "warm_learning_rate"):
            check_number(name, getattr(self, name), above=0)
        for name in ("base_demonstrations", "warm_demonstrations", "two_hop_share", "slips"):
            check_number(name, getattr(self, name), least=0, most=1)


class Writer:
    """Turns seeded draws into rows; opens a new world every `texts_per_world` texts.

    Args:
        tokenizer: converts texts to token ids.
        config: seed, habits and shares of the kinds of text.
        stage: 0 or 1; each stage has its own worlds and random draws.
        texts_per_world: number of texts about one world before the next is opened.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PretrainConfig, stage: int = 0, texts_per_world: int = 4000
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.texts_per_world = texts_per_world
        self.world = stage * 10_000
        self.texts = texts_per_world
        self.library: Library
        # Episodes with one document are shorter than with five, and miss the fact more often, which teaches the
        # format and to search again.
        self.rules = [make_rules(prompt_template=PROMPT, top_k=k) for k in (1, 2, 3, 5, 5)]
        self.rng = np.random.default_rng(mix(config.seed, 1 + stage))
        self.tags = {tokenizer.convert_tokens_to_ids(tag) for tag in TAGS}
        self.habits = BASE_HABITS if stage == 0 else config.habits

    def rows(self, count: int, *, progress: float, demonstrations: float) -> list[Row]:
        """The next `count` rows.

        Args:
            count: number of rows.
            progress: progress of the base stage, in [0, 1]; determines the number of documents per text.
            demonstrations: probability that a row is a demonstration; the rest is base text.
        """
        if self.texts >= self.texts_per_world:
            self._open_world()
        self.texts += count
        played = int(self.rng.binomial(count, demonstrations))
        texts = self._demonstrations(played)
        for _ in range(count - played):
            if self.rng.random() < 0.12:
                texts.append(self._needs(10))
            else:
                documents = int(self.rng.choice(5, p=_document_shares(progress))) + 1
                texts.append(notes_text(self.library, self.rng, documents=documents, notes=4 + 3 * documents))
        rows = encode_rows(self.tokenizer, texts)
        for row in rows[:played]:
            self._slip(row)
        return rows

    def _open_world(self) -> None:
        seed = FIRST_WORLD + mix(self.config.seed, self.world) % FIRST_WORLD
        passages = (2000, 6000, 12000)[self.world % 3]  # names recur more or less often, as in users' worlds
        self.library = open_library(seed, passages)
        config = WorldConfig(seed=seed, passages=passages, questions=passages)
        self.questions = list(make_questions(self.library.facts, config, "train", seed))
        self.engine = CorpusEngine(self.library.passages)
        self.world, self.texts = self.world + 1, 0

    def _demonstrations(self, count: int) -> list[list[Segment]]:
        half = len(self.questions) // 2  # one-hop questions come first
        picks = self.rng.integers(half, size=count) + half * (self.rng.random(count) < self.config.two_hop_share)
        levels = self.rng.choice([0.0, 0.25, 0.5, 0.75], size=count)
        seeds = self.rng.integers(2**62, size=count)
        rules = self.rules[int(self.rng.integers(len(self.rules)))]
        episodes = [
            Episode(self.questions[int(i)], rules, noise_level=float(p), seed=int(s))
            for i, p, s in zip(picks, levels, seeds, strict=True)
        ]
        return demonstrate(self.library, self.engine, episodes, self.habits, self.rng)

    def _needs(self, count: int) -> list[Segment]:
        segments: list[Segment] = []
        for i in self.rng.integers(len(self.questions), size=count):
            question = self.questions[int(i)]
            metadata = question.metadata or {}
            path = [BY_NAME[name] for name in metadata["relations"]]
            segments += need_text(question.text, path, metadata["subject"])
        return segments

    def _slip(self, row: Row) -> None:
        """Replace some of the policy's tokens by random ones, and train on the tokens after them, not on these.

        When a policy samples, it sees its own mistakes. Without this training it would repeat a wrong name until the
        turn is full, because repeating its context is what the model does best.
        """
        for i in np.flatnonzero(self.rng.random(len(row.ids)) < self.config.slips).tolist():
            if row.trained[i] and row.ids[i] not in self.tags:
                row.ids[i], row.trained[i] = int(self.rng.integers(len(self.tokenizer))), False


def pretrain(config: PretrainConfig) -> Path:
    """Train a tiny policy and save it; progress is printed.

    Training uses one thread unless `OMP_NUM_THREADS` is set.

    Returns:
        The policy's directory.

    Raises:
        ConfigError: the architecture is not possible, or the output directory holds something other than a policy.
        CheckpointError: `config.start` is not a usable policy.
        TrainingError: the loss is not finite.
        MissingExtraError: torch or transformers is not installed.
    """
    output = Path(config.output)
    for directory in (output, _stage_output(output, "base"), _stage_output(output, "warm")):
        check_replaceable(directory)
    require("torch")
    require("transformers")
    with one_thread():
        return _pretrain(config, output)


def _pretrain(config: PretrainConfig, output: Path) -> Path:
    from ..forward.attention import use_block_attention
    from ..policy.card import AgentCard
    from ..policy.policy import Policy, load_policy, save_policy
    from .induction import new_tiny_model

    card = AgentCard(protocol="zerosearch", prompt_template=PROMPT, turn_tokens=64, context_tokens=2048, chat=False)
    if config.start is None:
        tokenizer = _learn_tokenizer(config)
        model = new_tiny_model(config, tokenizer, vocab_size=config.vocab_size, seed=config.seed)
    else:
        started = load_policy(local_policy(config.start))
        model, tokenizer = started.model, started.tokenizer
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    policy = Policy(model, tokenizer, card)
    stages = (
        ("base", config.base_tokens, config.learning_rate, 0.1, config.base_demonstrations),
        ("warm", config.warm_tokens, config.warm_learning_rate, 0.0, config.warm_demonstrations),
    )
    for number, (name, tokens, peak, floor, demonstrations) in enumerate(stages):
        if not tokens:
            continue
        target = _stage_output(output, name)
        use_block_attention(policy.model)
        draw_rows = partial(_draw_rows, Writer(tokenizer, config, number), demonstrations, name == "warm")
        options = FitOptions(
            name, int(tokens), config.batch_tokens, peak, floor, config.dtype, config.save_every_minutes
        )
        fit(policy.model, draw_rows, options, partial(save_policy, policy, target, dtype="bfloat16"))
        # Load the saved bfloat16 weights, so that the next stage gives the same model in this run or in a later one
        # (`start`).
        policy = load_policy(target)
    save_policy(policy, output, dtype="bfloat16")
    print(f"wrote {output}", flush=True)
    return output


def _draw_rows(writer: Writer, demonstrations: float, late: bool, count: int, progress: float) -> list[Row]:
    """Rows of a stage; with `late`, the texts are those of the end of the base stage."""
    return writer.rows(count, progress=1.0 if late else progress, demonstrations=demonstrations)


def _document_shares(progress: float) -> list[float]:
    """Probabilities of 1, 2, ... 5 documents per text: few documents at first, mostly five later."""
    if progress < 0.05:
        return [0.5, 0.3, 0.2, 0.0, 0.0]
    return [0.2] * 5 if progress < 0.2 else [0.08, 0.08, 0.14, 0.2, 0.5]


def _learn_tokenizer(config: PretrainConfig) -> PreTrainedTokenizerBase:
    from .tokenizer import build_tokenizer

    def texts() -> Iterator[str]:
        for world in range(6):
            library = open_library(FIRST_WORLD + mix(config.seed, world, 2) % FIRST_WORLD, 20_000)
            for i, passage in enumerate(library.passages):
                yield f"Doc {i % 5 + 1}: {passage.title}: {passage.text}\n"
            for stated in library.stated[::4]:
                for relation, subject, object_ in stated:
                    need = f"{relation.noun} of {subject}"
                    yield f"Find the {need}.</think><search>{need}</search><think>The {need} is {object_}.</think>"
                    yield f"<answer>{object_}</answer>\nFind the {need}, then the {relation.noun}.\n"
                    yield f"The {need} is not here.\nJust guess.\n"
                    for question in relation.questions:
                        yield f"Question: {question % {'s': subject}}\nTo look up: {question % {'s': subject}}\n"

    return build_tokenizer(texts(), config.vocab_size)


def _stage_output(output: Path, stage: str) -> Path:
    return output.with_name(f"{output.name}-{stage}")


_HELP = """Train the tiny model that replaces a pretrained language model, on generated text only.

Stage 1 (base) teaches it to read: documents, and notes on the facts they state. Stage 2 (warm) shows it episodes of an
imperfect searcher. The defaults reproduce the shipped model. After Ctrl-C the last saved model is in OUTPUT-base or
OUTPUT-warm; "--start OUTPUT-base --base-tokens 0" repeats only the second stage."""


def main(argv: list[str] | None = None) -> int:
    """Entry point of `zerosearch pretrain`.

    Args:
        argv: arguments after `zerosearch pretrain`; None uses the process's arguments.

    Returns:
        The exit status, 0. Errors and Ctrl-C are handled by the caller (`zerosearch_env.cli`).
    """
    pretrain(read_options(PretrainConfig, argv, "zerosearch pretrain", description=_HELP))
    return 0
