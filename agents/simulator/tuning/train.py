"""`zerosearch simulator train`: supervised fine-tuning of a simulation LLM, with the loss on the documents only.

    zerosearch simulator train --input pairs.jsonl --model DIRECTORY --output runs/simulator/tuned
    torchrun --nproc-per-node 4 -m zerosearch_env.cli simulator train ...      the same run on four GPUs
    zerosearch simulator train --input pairs.jsonl --init tiny ...             a small model from scratch

OUTPUT contains manifest.json, metrics.jsonl, checkpoints/ and, at the end, model/: a save_pretrained directory with
simulator.json, which names the prompt. To resume a run that was killed or interrupted, run the same command again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zerosearch_env.engines.simulated.card import SimulatorCard
from zerosearch_env.errors import DataError, require
from zerosearch_env.randomness import mix_array

from ...config.tune import TuneConfig
from ...policy.policy import load_policy, quiet_transformers
from ...runs.manifest import input_record
from ...sft.rows import Row
from ..pairs.files import input_files
from ..pairs.pair import Pair, read_pairs
from .encode import encode
from .model import new_tiny, save_simulator

if TYPE_CHECKING:
    from ...sft.tuner import Task

RESULT = "model"
"""The folder of the tuned simulator in the run directory."""


def run_train(config: TuneConfig, *, command: str = "") -> dict[str, Any]:
    """Tune a model; continues where an earlier run with the same options stopped.

    Ctrl-C once ends the run after the current step and saves everything; twice ends it immediately.

    Args:
        config: the options.
        command: the command line, stored in the manifest.

    Returns:
        Final figures: steps, held-out loss, seconds, why it stopped, and the model's directory if it is finished.

    Raises:
        ConfigError: an option is invalid, or the output holds a run with other options.
        DataError: the pairs cannot be used.
        CheckpointError: the model or a checkpoint cannot be loaded.
        TrainingError: the loss is not finite.
        MissingExtraError: torch, transformers or (for LoRA) peft is not installed.
    """
    require("torch")
    require("transformers")
    from ...sft.tuner import Run, tune

    files = input_files([config.input], config.output)
    result = tune(Run("train", RESULT, load_task), config, files=files, model=config.model, command=command)
    if result["stopped"] == "finished":
        return {**result, "model": str(config.output / RESULT)}
    return {**result, "resume": "the same command again"}


def load_task(config: TuneConfig, device: str) -> Task:
    """Load model and pairs, and encode the pairs.

    Raises:
        DataError: there is no training pair, the pairs mix several prompts, or all of them are too long.
    """
    from ...sft.tuner import Task

    pairs = read_pairs(config.input, on_bad_row=config.on_bad_row)
    train = [pair for pair in pairs if pair.split == "train"]
    held_out = [pair for pair in pairs if pair.split == "test"]
    if not train:
        raise DataError(f"{config.input} has no pair with split 'train'")
    if len(ids := sorted({pair.prompt_id for pair in pairs})) > 1:
        raise DataError(f"{config.input} mixes the prompts {', '.join(ids)}: a simulator is tuned with one")
    model: Any
    if config.model is None:
        model, tokenizer = new_tiny(config.tiny, train, seed=config.seed)
        model.to(device)
    else:
        base = load_policy(config.model, dtype=config.loading_dtype, device=device)
        model, tokenizer = base.model, base.tokenizer
    rows = _encode(train, tokenizer, config.max_tokens)
    if not rows:
        raise DataError(f"every pair of {config.input} has more than {config.max_tokens} tokens (--max-tokens)")
    order = mix_array(config.seed, np.arange(len(held_out), dtype=np.uint64)).argsort(kind="stable")
    tests = [held_out[i] for i in order[: config.eval_pairs]]
    kinds = {"useful": False, "noisy": True}
    test_rows = {
        kind: _encode([pair for pair in tests if pair.noisy is noisy], tokenizer, config.max_tokens)
        for kind, noisy in kinds.items()
    }
    card = SimulatorCard(
        ids[0],
        max(len(pair.documents) for pair in train),
        str(config.model or f"{config.init}, from scratch"),
        input_record(input_files([config.input], config.output))["sha256"],
    )
    counts = {
        "train_pairs": len(rows),
        "held_out_pairs": sum(map(len, test_rows.values())),
        "too_long": len(train) - len(rows),
        "max_documents": card.max_documents,
    }
    save = partial(_save, tokenizer=tokenizer, card=card, config=config)
    return Task(model, rows, test_rows, counts, save)


def _encode(pairs: Sequence[Pair], tokenizer: Any, max_tokens: int) -> list[Row]:
    with quiet_transformers():  # hides the warning about too long inputs; `load_task` counts such pairs
        return [row for pair in pairs if (row := encode(pair, tokenizer, max_tokens)) is not None]


def _save(model: Any, *, tokenizer: Any, card: SimulatorCard, config: TuneConfig) -> None:
    save_simulator(model, tokenizer, card, config.output / RESULT, dtype=config.dtype)
