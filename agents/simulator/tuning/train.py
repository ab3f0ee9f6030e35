"""`zerosearch simulator train`: supervised fine-tuning of a simulation LLM, with the loss on the documents only.

    zerosearch simulator train --input pairs.jsonl --model DIRECTORY --output runs/simulator/tuned
    torchrun --nproc-per-node 4 -m zerosearch_env.cli simulator train ...      the same run on four GPUs
    zerosearch simulator train --input pairs.jsonl --init tiny ...             a small model from scratch

OUTPUT contains manifest.json, metrics.jsonl, checkpoints/ and, at the end, model/: a save_pretrained directory with
simulator.json, which names the prompt. To resume a run that was killed or interrupted, run the same command again.
"""

from __future__ import annotations

from typing import Any

from zerosearch_env.errors import require

from ...config.tune import TuneConfig


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
    from .tuner import tune

    return tune(config, command=command)
