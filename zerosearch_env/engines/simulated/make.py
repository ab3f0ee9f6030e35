"""Factory for the specs `simulated:BACKEND:WHAT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConfigError, unknown_name
from ...llm import Backend, HttpOptions, OpenAIBackend, TransformersBackend, VLLMBackend
from ...types import Dataset, Options
from ..registry import forwards
from .card import read_card
from .engine import SimulatedEngine
from .sets import SimulationOptions

_LOCAL = ("device", "dtype", "max_batch")
_OWN_OPTIONS = {
    "openai": ("model", "api_key_env", "api", "extra_body", "http"),
    "hf": _LOCAL,
    "vllm": ("engine_options",),
    "tiny": _LOCAL,
}
"""Options that only some backends accept."""

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
    if kind not in _OWN_OPTIONS:
        raise unknown_name("backend of the simulated engine", kind, _OWN_OPTIONS)
    if kind == "tiny" and what:
        raise ConfigError(f'"simulated:tiny" takes no argument, got {what!r}; use "simulated:hf:FOLDER" for a model')
    own = {name: options.pop(name) for name in [*options] if name not in SimulationOptions.__dataclass_fields__}
    given = {name: value for name, value in {**own, "http": http}.items() if value is not None}
    for name in given:
        if name not in _OWN_OPTIONS[kind]:
            options_of_kind = ", ".join(_OWN_OPTIONS[kind])
            raise ConfigError(f"the option {name!r} is not one of simulated:{kind}, which has {options_of_kind}")
    if prompt is None:
        folder = str(TINY_MODEL) if kind == "tiny" else what
        card = read_card(folder) if folder and kind != "openai" else None
        prompt = "tuned" if card is None else card.prompt
    simulation = SimulationOptions(
        prompt=prompt,
        temperature=(0.65 if prompt == "tiny" else 0.8) if temperature is None else temperature,
        **options,
    )
    return SimulatedEngine(_backend(kind, what, given), options=simulation, cache=cache, probe=probe)


def _backend(kind: str, what: str, given: dict[str, Any]) -> Backend:
    if kind == "hf":
        return TransformersBackend(what, **given)
    if kind == "tiny":
        defaults: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_batch": 64}
        return TransformersBackend(str(TINY_MODEL), **defaults | given)
    if kind == "vllm":
        return VLLMBackend(what, **given)
    http = HttpOptions.from_mapping(given.pop("http", None))
    return OpenAIBackend([url for url in what.split(",") if url.strip()], options=http, **given)
