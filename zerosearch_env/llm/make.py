"""Backends by description: a model in this process, or one on a server."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..types import Options
from .backend import Backend
from .http.options import HttpOptions
from .local.backend import TransformersBackend
from .openai import OpenAIBackend
from .vllm import VLLMBackend

BACKEND_OPTIONS = {
    "openai": ("model", "api_key_env", "api", "extra_body", "http"),
    "hf": ("device", "dtype", "max_batch"),
    "vllm": ("engine_options",),
}
"""The options of each kind of backend; `http` is a mapping with fields of `HttpOptions`."""


# Any: each backend checks its own options
def make_backend(source: str, **options: Any) -> Backend:
    """Build a backend from its description. A model in this process is loaded at the first prompt.

    Args:
        source: `"hf:MODEL"` (Transformers) or `"vllm:MODEL"`, both in this process, where MODEL is a folder or a name
            on the Hugging Face Hub; `"openai:URL[,URL...][#MODEL]"` (see `make_endpoint`); or a folder or hub name
            alone, which means `hf`.
        **options: those of the backend, see `BACKEND_OPTIONS`; None is the default of the backend.

    Raises:
        ConfigError: the backend does not have an option, or a value is invalid.
    """
    kind, colon, what = source.partition(":")
    if not colon or kind not in BACKEND_OPTIONS:
        kind, what = "hf", source
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in BACKEND_OPTIONS[kind]:
            raise ConfigError(
                f"the option {name!r} is not one of the backend {kind!r}, which has {', '.join(BACKEND_OPTIONS[kind])}"
            )
    if kind == "openai":
        return make_endpoint(what, **given)
    return TransformersBackend(what, **given) if kind == "hf" else VLLMBackend(what, **given)


# Any: the backend checks its own options
def make_endpoint(address: str, *, model: str = "", http: Options | None = None, **options: Any) -> OpenAIBackend:
    """Build the backend for `"URL[,URL...][#MODEL]"`.

    Args:
        address: addresses of replicas of one model, each usually ending in `/v1`, and the name of the model. Without
            a name the first model that the server lists is used.
        model: the name of the model, if `address` has none.
        http: fields of `HttpOptions`, for example `{"concurrency": 256}`.
        **options: the other options of `OpenAIBackend`.

    Raises:
        ConfigError: there is no address, the model is named twice, or an option is invalid.
    """
    urls, mark, named = address.partition("#")
    if mark and model:
        raise ConfigError(f"the model is named twice: {named!r} in the address and {model!r} as an option")
    replicas = [url for url in urls.split(",") if url.strip()]
    return OpenAIBackend(replicas, model=named or model, options=HttpOptions.from_mapping(http), **options)
