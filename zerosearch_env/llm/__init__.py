"""Language models as services: an HTTP client with bounded retries, and backends that complete prompts.

`JsonClient` serves every engine that uses a network. A `Backend` completes prompts, in this process or on a server.
The names below are loaded at first use, and heavy libraries only when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import AsyncBackend, Backend, Completion, Prompt
    from .http.client import JsonClient, JsonReply
    from .http.loop import LoopThread
    from .http.options import HttpOptions
    from .local.backend import TransformersBackend
    from .openai import OpenAIBackend
    from .vllm import VLLMBackend

__all__ = [
    "AsyncBackend",
    "Backend",
    "Completion",
    "HttpOptions",
    "JsonClient",
    "JsonReply",
    "LoopThread",
    "OpenAIBackend",
    "Prompt",
    "TransformersBackend",
    "VLLMBackend",
]

_NAMES = {
    "backend": "AsyncBackend Backend Completion Prompt",
    "http.client": "JsonClient JsonReply",
    "http.loop": "LoopThread",
    "http.options": "HttpOptions",
    "local.backend": "TransformersBackend",
    "openai": "OpenAIBackend",
    "vllm": "VLLMBackend",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
