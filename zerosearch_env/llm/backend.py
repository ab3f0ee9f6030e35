"""What a backend is: something that completes prompts, each on its own."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that one completion depends on, besides the model."""

    text: str
    """The user's message; the model's chat template, where there is one, is put around it by the backend."""
    seed: int
    """64-bit seed of the sampling."""
    max_tokens: int
    """Most tokens of the completion."""
    temperature: float = 0.8
    """0 takes the most probable token every time."""
    top_p: float = 1.0
    """Sampling keeps the most probable tokens that together hold this share of the probability, in (0, 1]."""
    stop: tuple[str, ...] = ()
    """The completion ends in front of the first of these texts."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one prompt. `failure` is None exactly when there is a text, which may be empty."""

    text: str = ""
    truncated: bool = False
    """True when the text ends because `max_tokens` was reached."""
    attempts: int = 1
    """Calls of the model or the server that this took."""
    failure: str | None = None
    """Why there is no text, after the backend's bounded retries."""


@runtime_checkable
class Backend(Protocol):
    """Completes prompts. A completion depends on its own prompt, never on what else is in the batch."""

    name: str
    """Short name, for example `"openai"`."""

    @property
    def identity(self) -> str:
        """The model, and whatever else decides about its completions; part of the key of cached results."""
        ...

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt, in order; a prompt that fails has `failure` set.

        Raises:
            EngineError: nothing can be completed: the backend is closed, or its model broke down.
        """
        ...

    def close(self) -> None:
        """Release what the backend holds. Calling it twice is fine; completing afterwards is an error."""
        ...


@runtime_checkable
class AsyncBackend(Backend, Protocol):
    """A backend whose prompts wait for a server, each at its own pace, in an event loop of the backend's own."""

    @property
    def concurrency(self) -> int:
        """Prompts that may be on their way at once, at least 1."""
        ...

    async def acomplete(self, prompt: Prompt) -> Completion:
        """Complete one prompt; to be awaited in the backend's loop, so inside `run` or `arun`."""
        ...

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """The coroutine's result from the backend's loop; the calling thread waits.

        Raises:
            EngineError: the backend is closed, or is closed meanwhile.
        """
        ...

    async def arun(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """The same for a caller in another event loop, which stays free; a caller cancelled cancels the coroutine.

        Raises:
            EngineError: the backend is closed, or is closed meanwhile.
        """
        ...
