"""What runs inside vLLM's worker: loading the learner's weights, and mending a tied head on CPUs.

vLLM mixes `LearnerWeights` into its worker class. A server needs the option
`--worker-extension-cls zerosearch_agents.sampling.vllm.worker.LearnerWeights`; an engine in the learner's process
needs none.
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
        """Load tensors by their names in a checkpoint; returns how many."""
        worker: Any = self
        worker.reload_weights(weights_iterator=iter(weights))
        mend_tied_head(worker.model_runner.get_model())
        return len(weights)


def mend_tied_head(model: Any) -> bool:
    """Give a head that shares the embedding's weights the new ones on a CPU; whether there was anything to do.

    On CPUs the head multiplies by a repacked copy of its weight. The reload repacks every layer that a weight was
    loaded for, and a tied head has none of its own: it would go on with the old copy, without an error.
    """
    from vllm.platforms import current_platform

    head = getattr(model, "lm_head", None)
    config = getattr(model, "config", None)
    if not current_platform.is_cpu() or head is None or not getattr(config, "tie_word_embeddings", False):
        return False
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dispatch_cpu_unquantized_gemm(head, remove_weight=False)
    return True
