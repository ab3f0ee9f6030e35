"""`VLLMBackend`: vLLM in this process, with prefix caching.

Written for vLLM 0.28 to 0.33. The prompts of one question share a prefix, which vLLM computes once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ..checks import check_options
from ..errors import ConfigError, EngineError, require
from ..randomness import mix
from ..types import Options
from .backend import Completion, Prompt, hub_commit, model_identity
from .chat import prompt_ids, too_long


class VLLMBackend:
    """Completes prompts with vLLM's `LLM`, which starts at the first prompt.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        engine_options: extra arguments of `vllm.LLM`, for example `{"gpu_memory_utilization": 0.4}`. Prefix caching
            is on, and the model's own sampling defaults are not used.

    Raises:
        ConfigError: `model` is empty.
    """

    name = "vllm"

    def __init__(self, model: str, *, engine_options: Options | None = None) -> None:
        if not model:
            raise ConfigError('a model is needed: "simulated:vllm:FOLDER" or "simulated:vllm:NAME"')
        self.model = model
        self._options = check_options("engine_options", engine_options or {}, '{"gpu_memory_utilization": 0.4}')
        self._llm: Any = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def identity(self) -> str:
        """The model and its dtype; see `model_identity`."""
        return model_identity(self.model, self._options.get("dtype"), self._options.get("revision"))

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Return one completion per prompt, in order.

        Raises:
            EngineError: the backend is closed, or vLLM failed.
            ConfigError: the model cannot be loaded.
            MissingExtraError: vLLM is not installed.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the backend is closed; build a new one", attempts=0)
            if not prompts:
                return []
            llm, vllm = self._start()
            tokenizer, context = llm.get_tokenizer(), _context_tokens(llm)
            ids = [prompt_ids(tokenizer, prompt.text) for prompt in prompts]
            results = [
                Completion(failure=problem) if (problem := too_long(len(row), prompt.max_tokens, context)) else None
                for prompt, row in zip(prompts, ids, strict=True)
            ]
            fitting = [i for i, failed in enumerate(results) if failed is None]
            if fitting:
                try:
                    outputs = llm.generate(
                        [{"prompt_token_ids": ids[i]} for i in fitting],
                        [_sampling(vllm, prompts[i]) for i in fitting],
                        use_tqdm=False,
                    )
                except Exception as cause:  # the exception classes of a dead engine change between versions
                    raise EngineError(f"vLLM failed with {self.model!r}: {type(cause).__name__}: {cause}") from cause
                for i, output in zip(fitting, outputs, strict=True):
                    results[i] = _completion(output.outputs[0])
        return [completion for completion in results if completion is not None]

    def close(self) -> None:
        """Stop vLLM and free its memory. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            llm, self._llm = self._llm, None
        core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
        if core is not None:
            core.shutdown()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the settings; a copy starts its own engine."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_llm")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the lock; the engine starts at the first prompt."""
        self.__dict__ |= state
        self._llm = None
        self._lock = threading.Lock()

    def _start(self) -> tuple[Any, Any]:
        vllm = require("vllm")
        if self._llm is None:
            options = {"enable_prefix_caching": True, "generation_config": "vllm", **self._options}
            # vLLM would look for another tokenizer at the same commit.
            if "tokenizer" not in options and (commit := hub_commit(self.model, options.get("revision"))):
                options["revision"] = commit
            try:
                self._llm = vllm.LLM(self.model, **options)
            except (OSError, ValueError, TypeError) as cause:
                raise ConfigError(f"vLLM could not load {self.model!r} with {options}: {cause}") from cause
            except RuntimeError as cause:
                raise EngineError(f"vLLM could not start with {self.model!r}: {cause}") from cause
        return self._llm, vllm


def _sampling(vllm: Any, prompt: Prompt) -> Any:
    return vllm.SamplingParams(
        max_tokens=prompt.max_tokens,
        temperature=prompt.temperature,
        top_p=prompt.top_p,
        top_k=0,
        seed=mix(prompt.seed) >> 1,  # vLLM takes signed 64-bit seeds
        stop=list(prompt.stop) or None,
    )


def _completion(output: Any) -> Completion:
    if output.finish_reason == "abort":
        return Completion(failure="vLLM aborted the request")
    return Completion(output.text, truncated=output.finish_reason == "length")


def _context_tokens(llm: Any) -> int:
    config = getattr(llm, "model_config", None) or llm.llm_engine.model_config
    return int(config.max_model_len)
