"""Language models as services: an HTTP client with bounded retries, and backends that complete prompts.

`JsonClient` serves every engine that uses a network. A `Backend` completes prompts, in this process or on a server.
Heavy libraries are imported only when they are used.
"""

from __future__ import annotations

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
