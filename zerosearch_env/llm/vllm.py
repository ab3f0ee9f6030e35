"""`VLLMBackend`: vLLM in this process, with prefix caching.

Written for vLLM 0.28 to 0.33. The prompts of one question share a prefix, which vLLM computes once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checks import check_options
from ..errors import ConfigError, EngineError, require
from ..randomness import mix
from ..types import Options
from .backend import Completion, Prompt, hub_commit
from .in_process import InProcessBackend


class VLLMBackend(InProcessBackend):
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
        self._options = check_options("engine_options", engine_options or {}, '{"gpu_memory_utilization": 0.4}')
        super().__init__(model, self._options.get("dtype"), self._options.get("revision"))

    def _load(self) -> _Engine:
        vllm = require("vllm")
        options = {"enable_prefix_caching": True, "generation_config": "vllm", **self._options}
        # vLLM would look for another tokenizer at the same commit.
        if "tokenizer" not in options and (commit := hub_commit(self.model, self._revision)):
            options["revision"] = commit
        try:
            return _Engine(vllm.LLM(self.model, **options), self.model)
        except (OSError, ValueError, TypeError) as cause:
            raise ConfigError(f"vLLM could not load {self.model!r} with {options}: {cause}") from cause
        except RuntimeError as cause:
            raise EngineError(f"vLLM could not start with {self.model!r}: {cause}") from cause


class _Engine:
    # Any: vLLM is not imported before it is used
    def __init__(self, llm: Any, model: str) -> None:
        self._llm, self._model = llm, model
        self.tokenizer = llm.get_tokenizer()
        config = getattr(llm, "model_config", None) or llm.llm_engine.model_config
        self.context_tokens = int(config.max_model_len)

    def complete(self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> list[Completion]:
        asked = [{"prompt_token_ids": row} for row in ids]
        try:
            outputs = self._llm.generate(asked, [_sampling(prompt) for prompt in prompts], use_tqdm=False)
        except Exception as cause:  # the exception classes of a dead engine change between versions
            raise EngineError(f"vLLM failed with {self._model!r}: {type(cause).__name__}: {cause}") from cause
        return [_completion(output.outputs[0]) for output in outputs]

    def close(self) -> None:
        core = getattr(getattr(self._llm, "llm_engine", None), "engine_core", None)
        if core is not None:
            core.shutdown()


def _sampling(prompt: Prompt) -> Any:
    return require("vllm").SamplingParams(
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
    tokens = len(output.token_ids)
    return Completion(output.text, truncated=output.finish_reason == "length", completion_tokens=tokens)
