"""The specs `simulated:BACKEND:WHAT` and their options; loads the engine only when one is built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, unknown_name
from ...types import Dataset

if TYPE_CHECKING:
    from ...llm.backend import Backend
    from .engine import SimulatedEngine

_OWN_OPTIONS = {
    "openai": ("model", "api_key_env", "extra_body", "http"),
    "hf": ("device", "dtype", "max_batch"),
    "vllm": ("engine_options",),
    "tiny": ("device", "dtype", "max_batch"),
}
"""The options that only some backends have."""

TINY_MODEL = Path(__file__).parents[2] / "assets" / "simulator-tiny"
"""The simulation LLM that comes with the package; `zerosearch simulator tiny` made it."""


def simulated_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    prompt: str | None = None,
    temperature: float | None = None,
    top_p: float = 1.0,
    max_tokens: int | None = None,
    resamples: int = 3,
    miss_resamples: int = 1,
    max_query_chars: int = 300,
    max_document_chars: int = 2000,
    cache: str | None = None,
    model: str | None = None,
    api_key_env: str | None = None,
    extra_body: Mapping[str, Any] | None = None,
    http: Mapping[str, Any] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_batch: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> SimulatedEngine:
    """The engine of `"simulated:BACKEND:WHAT"`: `openai:URL[,URL...]`, `hf:MODEL`, `vllm:MODEL`, or `tiny` alone.

    Args:
        argument: backend and what it needs, for example `"openai:http://127.0.0.1:8000/v1"`.
        dataset: not used; a request brings its question along.
        prompt: as in `SimulationOptions`, like those up to `max_document_chars`; None is `"tiny"` for `tiny`, and else
            `"tuned"`.
        temperature: of the sampling; None is 0.65 for `tiny`, which copies better so, and else 0.8.
        top_p: of the sampling.
        max_tokens: of a completion.
        resamples: after unusable and leaking samples.
        miss_resamples: after useful samples without an answer.
        max_query_chars: of a query in the prompt.
        max_document_chars: of a document.
        cache: path of a SQLite file that keeps the documents.
        model: `openai`: name on the servers; by default the first that they list.
        api_key_env: `openai`: environment variable with the key; by default `OPENAI_API_KEY`, where it is set. The key
            itself is no option: descriptions of environments are written to files.
        extra_body: `openai`: more fields of every request.
        http: `openai`: fields of `zerosearch_env.llm.HttpOptions`, for example `{"concurrency": 256}`.
        device: `hf`, `tiny`: as in `TransformersBackend`; by default `tiny` stays on the CPU.
        dtype: `hf`, `tiny`: the same; by default `tiny` computes in float32.
        max_batch: `hf`, `tiny`: the same; by default `tiny` completes 64 at once.
        engine_options: `vllm`: more arguments of `vllm.LLM`.

    Raises:
        ConfigError: an unknown backend, or an option that cannot be used.
        CacheError: the cache cannot be opened.
    """
    from .engine import SimulatedEngine
    from .sets import SimulationOptions

    kind, _, what = argument.partition(":")
    if kind not in _OWN_OPTIONS:
        raise unknown_name("backend of the simulated engine", kind, _OWN_OPTIONS)
    if kind == "tiny" and what:
        raise ConfigError(f'"simulated:tiny" stands alone, got {what!r} behind it; "simulated:hf:FOLDER" takes a model')
    own = {
        **{"model": model, "api_key_env": api_key_env, "extra_body": extra_body, "http": http},
        **{"device": device, "dtype": dtype, "max_batch": max_batch, "engine_options": engine_options},
    }
    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        if name not in _OWN_OPTIONS[kind]:
            raise ConfigError(f"the option {name!r} is not one of simulated:{kind}, which has {_OWN_OPTIONS[kind]}")
    options = SimulationOptions(
        prompt=prompt or ("tiny" if kind == "tiny" else "tuned"),
        temperature=(0.65 if kind == "tiny" else 0.8) if temperature is None else temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        resamples=resamples,
        miss_resamples=miss_resamples,
        max_query_chars=max_query_chars,
        max_document_chars=max_document_chars,
    )
    return SimulatedEngine(_backend(kind, what, given), options=options, cache=cache)


def _backend(kind: str, what: str, given: dict[str, Any]) -> Backend:
    if kind in ("hf", "tiny"):
        from ...llm.local.backend import TransformersBackend

        if kind == "hf":
            return TransformersBackend(what, **given)
        # By its contents: caches are shared between installations, and another release may bring another model.
        contents = hashlib.blake2b((TINY_MODEL / "model.safetensors").read_bytes(), digest_size=8).hexdigest()
        defaults = {"device": "cpu", "dtype": "float32", "max_batch": 64, "known_as": f"tiny {contents}"}
        return TransformersBackend(str(TINY_MODEL), **{**defaults, **given})
    if kind == "vllm":
        from ...llm.vllm import VLLMBackend

        return VLLMBackend(what, **given)
    from ...llm.http.options import HttpOptions
    from ...llm.openai import OpenAIBackend

    http = HttpOptions.from_mapping(given.pop("http", None))
    variable = given.pop("api_key_env", None)
    if variable is not None and not os.environ.get(variable):
        raise ConfigError(f"the environment variable {variable!r}, named by api_key_env, is not set")
    key = os.environ[variable] if variable else None
    urls = [url for url in what.split(",") if url.strip()]
    return OpenAIBackend(urls, api_key=key, options=http, **given)
