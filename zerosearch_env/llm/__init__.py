"""Language models as services: an HTTP client that fails well, and backends that complete prompts.

`JsonClient` is for every engine that talks over a network; a `Backend` completes prompts, in this process or on a
server. Nothing heavy is loaded before it is used.
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
