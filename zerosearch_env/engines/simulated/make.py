"""Factory for the specs `simulated:BACKEND:WHAT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConfigError, unknown_name
from ...llm.backend import Backend
from ...llm.http.options import HttpOptions
from ...types import Dataset, Options
from ..registry import forwards
from .card import read_card
from .engine import SimulatedEngine
from .sets import SimulationOptions

_OWN_OPTIONS = {
    "openai": ("model", "api_key_env", "extra_body", "http"),
    "hf": ("device", "dtype", "max_batch"),
    "vllm": ("engine_options",),
    "tiny": ("device", "dtype", "max_batch"),
}
"""Options that only some backends accept."""

TINY_MODEL = Path(__file__).parents[2] / "assets" / "simulator-tiny"
"""The simulation LLM shipped with the package; created by `zerosearch simulator tiny`."""


# Any: the signature that `forwards` sets gives each option its type
@forwards(SimulationOptions)
def simulated_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    prompt: str | None = None,
    temperature: float | None = None,
    cache: str | None = None,
    model: str | None = None,
    api_key_env: str | None = None,
    extra_body: Options | None = None,
    http: Options | None = None,
    device: str | None = None,
    dtype: str | None = None,
    max_batch: int | None = None,
    engine_options: Options | None = None,
    **options: Any,
) -> SimulatedEngine:
    """Build the engine for `"simulated:BACKEND:WHAT"`: `openai:URL[,URL...]`, `hf:MODEL`, `vllm:MODEL`, or `tiny`.

    Args:
        argument: the backend and its argument, for example `"openai:http://127.0.0.1:8000/v1"`.
        dataset: not used; each request carries its question.
        prompt: as in `SimulationOptions`; None means the prompt that the model was tuned with, if its folder has a card
            (`card.py`), otherwise `"tuned"`.
        temperature: sampling temperature; None means 0.65 with the prompt `"tiny"`, whose models copy more accurately
            at this value, otherwise 0.8.
        cache: path of a SQLite file that stores the documents.
        model: `openai`: name of the model on the servers; by default the first that they list.
        api_key_env: `openai`: environment variable with the key; by default `OPENAI_API_KEY`, if it is set. The key
            itself is not an option, since descriptions of environments are written to files.
        extra_body: `openai`: additional fields of every request.
        http: `openai`: fields of `zerosearch_env.llm.HttpOptions`, for example `{"concurrency": 256}`.
        device: `hf`, `tiny`: as in `TransformersBackend`; by default `tiny` runs on the CPU.
        dtype: `hf`, `tiny`: as in `TransformersBackend`; by default `tiny` computes in float32.
        max_batch: `hf`, `tiny`: as in `TransformersBackend`; by default `tiny` completes 64 prompts at a time.
        engine_options: `vllm`: additional arguments of `vllm.LLM`.
        **options: the other fields of `SimulationOptions`.

    Raises:
        ConfigError: the backend is unknown, or an option is invalid.
        CacheError: the cache cannot be opened.
        CheckpointError: the card of the model's folder is damaged or was written by another release.
    """
    kind, _, what = argument.partition(":")
    if kind not in _OWN_OPTIONS:
        raise unknown_name("backend of the simulated engine", kind, _OWN_OPTIONS)
    if kind == "tiny" and what:
        raise ConfigError(f'"simulated:tiny" takes no argument, got {what!r}; use "simulated:hf:FOLDER" for a model')
    backend_options = {
        **{"model": model, "api_key_env": api_key_env, "extra_body": extra_body, "http": http},
        **{"device": device, "dtype": dtype, "max_batch": max_batch, "engine_options": engine_options},
    }
    given = {name: value for name, value in backend_options.items() if value is not None}
    for name in given:
        if name not in _OWN_OPTIONS[kind]:
            raise ConfigError(f"the option {name!r} is not one of simulated:{kind}, which has {_OWN_OPTIONS[kind]}")
    if prompt is None:
        folder = str(TINY_MODEL) if kind == "tiny" else what
        card = read_card(folder) if folder and kind != "openai" else None
        prompt = "tuned" if card is None else card.prompt
    simulation = SimulationOptions(
        prompt=prompt,
        temperature=(0.65 if prompt == "tiny" else 0.8) if temperature is None else temperature,
        **options,
    )
    return SimulatedEngine(_backend(kind, what, given), options=simulation, cache=cache)


def _backend(kind: str, what: str, given: dict[str, Any]) -> Backend:
    if kind in ("hf", "tiny"):
        from ...llm.local.backend import TransformersBackend

        if kind == "hf":
            return TransformersBackend(what, **given)
        defaults = {"device": "cpu", "dtype": "float32", "max_batch": 64}
        return TransformersBackend(str(TINY_MODEL), **{**defaults, **given})
    if kind == "vllm":
        from ...llm.vllm import VLLMBackend

        return VLLMBackend(what, **given)
    from ...llm.openai import OpenAIBackend

    http = HttpOptions.from_mapping(given.pop("http", None))
    urls = [url for url in what.split(",") if url.strip()]
    return OpenAIBackend(urls, options=http, **given)
