"""`zerosearch simulator train`: supervised tuning of a simulation LLM, with the loss on the documents only.

    zerosearch simulator train --input pairs.jsonl --model DIRECTORY --output runs/simulator/tuned
    torchrun --nproc-per-node 4 -m zerosearch_env.cli simulator train ...      the same run on four GPUs
    zerosearch simulator train --input pairs.jsonl --init tiny ...             a small model from scratch

OUTPUT holds manifest.json, metrics.jsonl, checkpoints/ and, at the end, model/: a save_pretrained directory with
simulator.json, which names the prompt. Killed or interrupted, a run goes on when it is started again with the same
options.
"""

from __future__ import annotations

from typing import Any

from zerosearch_env.errors import require

from ...config.tune import TuneConfig


def run_train(config: TuneConfig, *, command: str = "") -> dict[str, Any]:
    """Tune a model; goes on where an earlier run with the same options stopped.

    Ctrl-C once ends the run after the current step, with everything saved; twice ends it at once.

    Args:
        config: everything that decides the run.
        command: kept in the manifest.

    Returns:
        Figures of the end: steps, held-out loss, seconds, why it stopped, and the model's directory once it is there.

    Raises:
        ConfigError: an option cannot be used, or the output holds a run with other options.
        DataError: the pairs cannot be used.
        CheckpointError: the model or a checkpoint cannot be loaded.
        TrainingError: the loss is no longer a number.
        MissingExtraError: torch, transformers or (for LoRA) peft is not installed.
    """
    require("torch", "train")
    require("transformers", "train")
    from .tuner import tune

    return tune(config, command=command)
