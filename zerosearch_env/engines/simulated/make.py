"""Factory for the specs `simulated:BACKEND:WHAT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConfigError, unknown_name
from ...llm import OpenAIBackend, TransformersBackend, VLLMBackend
from ...llm.make import make_backend
from ...types import Dataset, Options
from ..registry import forwards
from .card import read_card
from .engine import SimulatedEngine
from .sets import SimulationOptions

_KINDS = ("openai", "hf", "vllm", "tiny")

TINY_MODEL = Path(__file__).parents[2] / "assets" / "simulator-tiny"
"""The simulation LLM shipped with the package; created by `zerosearch simulator tiny`."""


# Any: the signature that `forwards` sets gives each option its type
@forwards(SimulationOptions, OpenAIBackend, TransformersBackend, VLLMBackend, without=("api_key", "options"))
def simulated_engine(
    argument: str,
    dataset: Dataset | None,
    *,
    prompt: str | None = None,
    temperature: float | None = None,
    cache: str | None = None,
    probe: bool = True,
    http: Options | None = None,
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
        probe: whether commands try four searches when they start, and say whether the model is fit.
        http: `openai`: fields of `zerosearch_env.llm.HttpOptions`, for example `{"concurrency": 256}`.
        **options: the other fields of `SimulationOptions`, and the options of the backend: of `OpenAIBackend` (without
            the key itself, since descriptions of environments are written to files), of `TransformersBackend` (for
            `tiny` by default `device="cpu"`, `dtype="float32"` and `max_batch=64`) or of `VLLMBackend`.

    Raises:
        ConfigError: the backend is unknown, or an option is invalid.
        CacheError: the cache cannot be opened.
        CheckpointError: the card of the model's folder is damaged or was written by another release.
    """
    if not isinstance(probe, bool):
        raise ConfigError(f"probe must be true or false, got {probe!r:.200}")
    kind, _, what = argument.partition(":")
    if kind not in _KINDS:
        raise unknown_name("backend of the simulated engine", kind, _KINDS)
    if kind == "tiny" and what:
        raise ConfigError(f'"simulated:tiny" takes no argument, got {what!r}; use "simulated:hf:FOLDER" for a model')
    if kind == "openai" and "#" in what:  # may be a secret
        raise ConfigError("an address of a simulation LLM must not hold '#': name the model with the option `model`")
    own = {name: options.pop(name) for name in [*options] if name not in SimulationOptions.__dataclass_fields__}
    if kind == "tiny":
        kind, what = "hf", str(TINY_MODEL)
        given = {name: value for name, value in own.items() if value is not None}
        own = {"device": "cpu", "dtype": "float32", "max_batch": 64} | given
    if prompt is None:
        card = read_card(what) if what and kind != "openai" else None
        prompt = "tuned" if card is None else card.prompt
    simulation = SimulationOptions(
        prompt=prompt,
        temperature=(0.65 if prompt == "tiny" else 0.8) if temperature is None else temperature,
        **options,
    )
    backend = make_backend(f"{kind}:{what}", http=http, **own)
    return SimulatedEngine(backend, options=simulation, cache=cache, probe=probe)
