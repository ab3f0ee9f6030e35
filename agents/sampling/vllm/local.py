"""vLLM in the learner's process as a turn engine.

Weights are passed as an iterator. On a GPU, sampler and learner use the memory alternately (sleep level 2).

Written for vLLM 0.28 to 0.32.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import torch

from zerosearch_env.errors import ConfigError, EngineError, require

from ...config.vllm import VLLMConfig
from ..engine import TurnLimits, TurnReply, TurnRequest
from .parameters import vllm_parameters
from .sync import WORKER_EXTENSION
from .weights import named_weights


class VLLMEngine:
    """See `TurnEngine`. The constructor starts vLLM in this process.

    Args:
        path: folder of the policy: configuration, tokenizer and initial weights.
        model: the learner's model; `load` takes the weights from it. None: there is no learner, so the weights stay,
            and on a GPU vLLM uses as much memory as it does by default.
        limits: sampling settings.
        context_tokens: maximum tokens per row.
        slots: number of rows decoded in parallel.
        options: see `VLLMConfig`.

    Raises:
        ConfigError: if vLLM cannot load the model with these options.
        EngineError: if vLLM could not start.
        MissingExtraError: if vLLM is not installed.
    """

    def __init__(
        self,
        path: Path,
        model: torch.nn.Module | None,
        limits: TurnLimits,
        *,
        context_tokens: int,
        slots: int,
        options: VLLMConfig,
    ) -> None:
        # vLLM reads this when it builds the engine. In another process it could not access this process's tensors.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self._vllm: Any = require("vllm")
        self._model = model
        self._limits = limits
        first = None if model is None else next(model.parameters())
        self._sleeps = first is not None and first.is_cuda
        """Whether GPU memory is freed between rollouts; CPUs do not support this."""
        self._asleep = False
        arguments: dict[str, Any] = {
            "dtype": options.dtype or ("auto" if first is None else str(first.dtype).removeprefix("torch.")),
            "enforce_eager": options.eager,
            "max_model_len": context_tokens,
            "max_num_seqs": slots,
            "enable_prefix_caching": True,
            "generation_config": "vllm",
            # As in the learner: log-probabilities at the sampling temperature.
            "logprobs_mode": "processed_logprobs",
            "worker_extension_cls": WORKER_EXTENSION,
            "distributed_executor_backend": "uni",
        }
        if self._sleeps:
            arguments |= {"enable_sleep_mode": True, "gpu_memory_utilization": options.gpu_memory}
        try:
            self._llm: Any = self._vllm.LLM(str(path), **arguments)
        except (OSError, ValueError, TypeError) as cause:
            raise ConfigError(f"vLLM could not load {str(path)!r} with {arguments}: {cause}") from cause
        except RuntimeError as cause:
            raise EngineError(f"vLLM could not start with {str(path)!r}: {cause}") from cause
        self._engine: Any = self._llm.llm_engine
        self._woken = threading.Event()

    def submit(self, number: int, request: TurnRequest) -> None:
        """See `TurnEngine.submit`."""
        if self._asleep:
            raise EngineError("vLLM is asleep: the learner's weights must be loaded before it samples again")
        parameters = self._vllm.SamplingParams(
            **vllm_parameters(self._limits, request),
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(str(number), {"prompt_token_ids": list(request.prompt_ids)}, parameters)

    def wait(self) -> list[tuple[int, TurnReply]]:
        """See `TurnEngine.wait`: decodes step by step until a turn is finished."""
        replies: list[tuple[int, TurnReply]] = []
        while not replies and not self._woken.is_set() and self._engine.has_unfinished_requests():
            try:
                outputs = self._engine.step()
            except Exception as cause:  # the error classes of a dead engine differ between versions
                raise EngineError(f"vLLM failed: {type(cause).__name__}: {cause}") from cause
            replies = [(int(output.request_id), _reply(output.outputs[0])) for output in outputs if output.finished]
        self._woken.clear()
        return replies

    def wake(self) -> None:
        """See `TurnEngine.wake`."""
        self._woken.set()

    def cancel(self, number: int) -> None:
        """See `TurnEngine.cancel`."""
        self._engine.abort_request([str(number)])

    def load(self, version: int) -> None:
        """See `TurnEngine.load`."""
        assert self._model is not None, "without a learner nothing is loaded"
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        try:
            self._llm.collective_rpc("zerosearch_load_weights", args=(list(named_weights(self._model)),))
        except Exception as cause:  # as above
            raise EngineError(f"vLLM could not load the weights: {type(cause).__name__}: {cause}") from cause
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if self._llm.reset_prefix_cache() is False:
            raise EngineError("vLLM could not empty its prefix cache, which holds results of old weights")

    def check(self) -> None:
        """Does nothing: no other process can change the weights of an engine in this process."""

    def before_training(self) -> None:
        """See `TurnEngine.before_training`: on a GPU, weights and cache are dropped (sleep level 2)."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """See `TurnEngine.close`."""
        core = getattr(getattr(self, "_engine", None), "engine_core", None)
        self._engine = self._llm = None
        if core is not None:
            core.shutdown()


def _reply(output: Any) -> TurnReply:
    """Convert a `CompletionOutput` to a turn.

    Raises:
        EngineError: if vLLM abandoned the turn.
    """
    if output.finish_reason not in ("stop", "length"):
        raise EngineError(f"vLLM ended a turn with {output.finish_reason!r}")
    ids = tuple(int(token) for token in output.token_ids)
    values = tuple(float(logprobs[token].logprob) for token, logprobs in zip(ids, output.logprobs, strict=True))
    return TurnReply(ids, values, output.finish_reason == "stop")
