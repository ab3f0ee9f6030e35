"""The `Backend` protocol: it completes prompts independently of each other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..identity import folder_hash
from .http.loop import LoopThread


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything a completion depends on, except the model."""

    text: str
    """The user's message. The backend wraps it in the model's chat template if the model has one."""
    seed: int
    """64-bit sampling seed."""
    max_tokens: int
    """Maximum number of tokens in the completion."""
    temperature: float = 0.8
    """Sampling temperature; 0 always takes the most probable token."""
    top_p: float = 1.0
    """Nucleus sampling: keep the most probable tokens that together have this probability, in (0, 1]."""
    stop: tuple[str, ...] = ()
    """Stop strings: the completion ends before the first of them."""
    system: str | None = None
    """The system message; "" is an empty one, and None is none, so that a chat template may insert its default."""
    prefill: str = ""
    """Beginning of the assistant's turn, which the completion continues and does not repeat."""
    history: tuple[tuple[str, str], ...] = ()
    """Earlier messages of the conversation, (role, content) each, between the system message and `text`. A model
    without a chat template reads their contents one after the other."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of one prompt. `failure` is None if and only if there is a text, which may be empty."""

    text: str = ""
    truncated: bool = False
    """True if the text ended because it reached `max_tokens`."""
    attempts: int = 1
    """Number of calls to the model or server."""
    failure: str | None = None
    """Why there is no text after all retries; None on success."""
    too_long: bool = False
    """True if the failure is that prompt and completion exceed the model's context."""
    stop: str | None = None
    """The stop string that ended the text, if the backend says which; None: an end token, a limit, or not known."""
    reasoning: str = ""
    """What the model thought before the text, if the server returns it apart."""
    prompt_tokens: int | None = None
    """Number of tokens that the model read; None: not known."""
    completion_tokens: int | None = None
    """Number of tokens that the model wrote, thoughts included; None: not known."""


@runtime_checkable
class Backend(Protocol):
    """Completes prompts. A completion depends only on its own prompt, never on the rest of the batch."""

    name: str
    """Short name, for example `"openai"`."""

    @property
    def identity(self) -> str:
        """The model and everything else that affects its completions; part of cache keys and of the engine's record."""
        ...

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Return one completion per prompt, in order; a failed prompt has `failure` set.

        Raises:
            EngineError: nothing can be completed, because the backend is closed or its model failed.
        """
        ...

    def close(self) -> None:
        """Release all resources. Closing twice is allowed; `complete` raises after it."""
        ...


@runtime_checkable
class AsyncBackend(Backend, Protocol):
    """A backend that sends prompts to a server concurrently, in its own event loop."""

    @property
    def concurrency(self) -> int:
        """Maximum number of concurrent prompts, at least 1."""
        ...

    @property
    def loop(self) -> LoopThread:
        """The event loop that `acomplete` is awaited in: `loop.run` and `loop.arun` take a coroutine there."""
        ...

    async def acomplete(self, prompt: Prompt) -> Completion:
        """Complete one prompt."""
        ...


def model_identity(model: str, dtype: object = None, revision: str | None = None) -> str:
    """The identity of a model in this process: a folder's name and a hash of its files, or name and commit on the hub.

    Args:
        model: a folder, or a name on the hub.
        dtype: data type of the weights, if it is not the checkpoint's.
        revision: branch, tag or commit on the hub; None: the main branch.
    """
    if Path(model).is_dir():
        name = f"{Path(model).resolve().name} {folder_hash(model)}"
    else:
        name = " ".join(filter(None, (model, hub_commit(model, revision) or revision)))
    return name if dtype is None else f"{name} ({dtype})"


@functools.cache
def hub_commit(model: str, revision: str | None = None) -> str | None:
    """The commit of a model on the hub that this process loads: the newest one, or offline the one in the local cache.

    The first answer holds for the whole process. Load the model at this commit, so that no later one is loaded.

    Returns:
        None for a folder, and for a model that can be reached neither on the hub nor in the cache.
    """
    if Path(model).is_dir():
        return None
    try:
        import huggingface_hub

        return Path(huggingface_hub.hf_hub_download(model, "config.json", revision=revision)).parent.name
    except (ImportError, OSError, ValueError):  # loading the model reports it
        return None
