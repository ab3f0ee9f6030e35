"""Small policies and data for the tests of the learner: made in milliseconds, and able to earn a reward by luck."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from zerosearch_agents.config.train import (
    AlgorithmConfig,
    EnvironmentConfig,
    OptimizerConfig,
    OutputConfig,
    RolloutConfig,
    TrainConfig,
)
from zerosearch_agents.policy.card import AgentCard
from zerosearch_agents.policy.policy import Policy, new_model, save_policy, tiny_config
from zerosearch_agents.tiny.tokenizer import build_tokenizer
from zerosearch_agents.training import update as update_module
from zerosearch_env.types import Dataset, Document, Question

OPEN, WORDS, CLOSE = ("<search>", "<answer>"), ("k", "b"), ("</search>", "</answer>")


@lru_cache
def tiny_tokenizer(vocab_size: int = 320):
    """A byte-level tokenizer with the tags and a few merges."""
    return build_tokenizer(["the author of a book is a person", "Doc 1: the town of a person"] * 4, vocab_size)


def tiny_policy(seed: int = 0, *, turn_tokens: int = 8, context_tokens: int = 320) -> Policy:
    """A random model that likes to write an opening tag, one of two letters, and a closing tag.

    Each of these kinds of token marks a component of the residual stream, which the head reads as a wish for the
    next kind.
    """
    tokenizer = tiny_tokenizer()
    model = new_model(
        tiny_config(len(tokenizer), hidden=32, layers=2, heads=2, mlp=48, context_tokens=512, tied=False), seed=seed
    )
    opening, words, closing = (tokenizer.convert_tokens_to_ids(list(kind)) for kind in (OPEN, WORDS, CLOSE))
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding[:, 0] = 0.5
        embedding[[*opening, *words], 0] = 0.0
        embedding[opening, 1] = embedding[words, 2] = 0.5
        head[opening, 0] = head[words, 1] = head[closing, 2] = 1.2
    card = AgentCard(prompt_template="{question}\n", turn_tokens=turn_tokens, context_tokens=context_tokens)
    return Policy(model, tokenizer, card)


def tiny_dataset() -> Dataset:
    """Eight questions whose answers are single letters, and passages that hold them."""
    letters = "kbkbkbkb"
    questions = [Question(f"q{i}", f"letter {i}", (letter,)) for i, letter in enumerate(letters)]
    passages = [Document(f"Letter {i}", f"the letter {i} is {letter}") for i, letter in enumerate(letters)]
    passages += [Document(f"Other {i}", f"a word on {word}") for i, word in enumerate(["letter", "town", "book"] * 4)]
    return Dataset("tiny", "train", questions, passages)


def tiny_train_config(folder: Path, **changes) -> TrainConfig:
    """A configuration of a few steps, with its initial policy saved under `folder`."""
    path = folder / "initial"
    if not path.exists():
        save_policy(tiny_policy(), path)
    values = {
        "policy": str(path),
        "output": str(folder / "run"),
        "steps": 3,
        "workers": 1,
        "environment": EnvironmentConfig(max_turns=2, top_k=2),
        "optimizer": OptimizerConfig(learning_rate=3e-3, warmup_steps=0),
        "rollout": RolloutConfig(prompts=4, group_size=4, slots=16),
        "algorithm": AlgorithmConfig(minibatches=2),
        "files": OutputConfig(checkpoint_every=1, transcripts_every=2, transcripts=3),
    }
    return TrainConfig(**(values | changes))


def spoil_loss(monkeypatch, value: float) -> None:
    """Give every loss of `update` a term whose gradient is `value`: not a number, or infinite."""
    original = update_module.loss_and_sums

    def spoilt(model, *rest):
        loss, sums = original(model, *rest)
        return loss + value * next(model.parameters()).sum(), sums

    monkeypatch.setattr(update_module, "loss_and_sums", spoilt)
