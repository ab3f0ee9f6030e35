"""Code that runs inside vLLM's worker: loading the learner's weights, and repairing a tied head on CPUs.

vLLM mixes `LearnerWeights` into its worker class. A server needs the option
`--worker-extension-cls zerosearch_agents.sampling.vllm.worker.LearnerWeights`; for an engine in the learner's process
it is set automatically.
Written for vLLM 0.28 to 0.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class LearnerWeights:
    """Methods that a learner calls through vLLM's `collective_rpc`."""

    def zerosearch_load_folder(self, path: str) -> str:
        """Load the safetensors files of a folder; returns the path."""
        worker: Any = self
        worker.reload_weights(weights_path=path)
        mend_tied_head(worker.model_runner.get_model())
        return path

    def zerosearch_load_weights(self, weights: Sequence[tuple[str, Any]]) -> int:
        """Load tensors by their names in a checkpoint; returns the number of tensors."""
        worker: Any = self
        worker.reload_weights(weights_iterator=iter(weights))
        mend_tied_head(worker.model_runner.get_model())
        return len(weights)


def mend_tied_head(model: Any) -> bool:
    """On a CPU, update a head that shares the embedding's weights; returns whether this was necessary.

    On CPUs the head multiplies by a repacked copy of its weight. A reload repacks only the layers that weights were
    loaded for. A tied head has no separate weight, so it would silently continue with the old copy.
    """
    from vllm.platforms import current_platform

    head = getattr(model, "lm_head", None)
    config = getattr(model, "config", None)
    if not current_platform.is_cpu() or head is None or not getattr(config, "tie_word_embeddings", False):
        return False
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
    return True
