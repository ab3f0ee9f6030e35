"""Dry run of a preset: two steps on the CPU with a small random model of the same architecture.

Algorithm, critic, curriculum, rewards, optimizer and schedule are those of the preset. Sizes, device and output
directory differ, and questions and search engine are those of the built-in world.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.protocols import get_protocol

from ..config.train import TrainConfig
from ..policy.card import AgentCard
from ..policy.files import local_policy
from ..policy.policy import Policy, load_policy, new_model, save_policy
from ..training.trainer import TrainResult, train
from .estimate import Architecture, transformers_config

_STEPS, _PROMPTS, _TURN_TOKENS, _ANSWER_ROOM = 2, 2, 12, 200
_LAYERS, _HEAD_DIM = 2, 16


def shrunken_config(model: Architecture, vocab: int) -> Any:
    """A small Transformers configuration of the same kind: two narrow layers, one key head, one or two query heads."""
    heads = 2 if model.heads > model.kv_heads else 1
    small = replace(
        model,
        hidden=2 * _HEAD_DIM,
        layers=_LAYERS,
        heads=heads,
        kv_heads=1,
        head_dim=2 * _HEAD_DIM // heads if model.kind == "qwen2" else _HEAD_DIM,  # Qwen2 requires hidden / heads
        mlp=3 * _HEAD_DIM,
        vocab=vocab,
    )
    return transformers_config(small, max_position_embeddings=8192)


def shrunken_run(config: TrainConfig, model: Architecture, folder: Path) -> TrainConfig:
    """The preset with sizes small enough for seconds on two CPU cores; its policy is saved under `folder`."""
    shipped = load_policy(local_policy("tiny"))
    # The vocabulary is padded, as in real models: for some kinds Transformers adds a token to the tokenizer.
    small = new_model(shrunken_config(model, 64 * (len(shipped.tokenizer) // 64 + 1)))
    card = replace(AgentCard(), protocol=shipped.card.protocol, prompt_template=shipped.card.prompt_template)
    save_policy(Policy(small, shipped.tokenizer, card), folder / "policy")
    turns = (config.environment.max_turns or get_protocol(shipped.card.protocol or "zerosearch").max_turns) + 1
    critic = replace(config.critic, warmup_steps=min(config.critic.warmup_steps, 1))
    return replace(
        config,
        policy=str(folder / "policy"),
        output=str(folder / "run"),
        steps=_STEPS,
        device="cpu",
        workers=1,
        critic=critic,
        data=replace(config.data, dataset="world", limit=8, world=WorldConfig(passages=200)),
        environment=replace(config.environment, search_engine="corpus"),
        rollout=replace(
            config.rollout,
            prompts=max(_PROMPTS, config.algorithm.minibatches),
            turn_tokens=_TURN_TOKENS,
            context_tokens=turns * (_TURN_TOKENS + _ANSWER_ROOM),
            slots=8,
        ),
        optimizer=replace(
            config.optimizer, warmup_steps=min(config.optimizer.warmup_steps, 1), micro_batch_tokens=2048
        ),
        files=replace(config.files, checkpoint_every=1, transcripts_every=1),
    )


def dry_run(config: TrainConfig, model: Architecture, folder: Path | None = None) -> TrainResult:
    """Run the small version of a preset.

    Args:
        config: the preset.
        model: the architecture of its policy.
        folder: directory for the policy and the run; None uses a temporary directory and removes it afterwards.

    Returns:
        The result of the run.

    Raises:
        TrainingError: the run failed, as in `train`.
    """
    if folder is not None:
        return train(shrunken_run(config, model, folder))
    place = Path(tempfile.mkdtemp(prefix="zerosearch-dry-run-"))
    try:
        return train(shrunken_run(config, model, place))
    finally:
        shutil.rmtree(place)
