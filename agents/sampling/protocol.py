"""The interface of samplers: token ids in; token ids, log-probabilities, finish reason and weight version out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Finish = Literal["stop", "eos", "length", "context"]


@dataclass(frozen=True, slots=True)
class TurnSample:
    """One finished turn of one row."""

    key: Hashable
    token_ids: tuple[int, ...]
    """Every token sampled in this turn, including the one that ended it."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the distribution it was drawn from (temperature 1 when greedy)."""
    text: str
    """The decoded tokens, without an end-of-sequence token."""
    finish: Finish
    """`"stop"`: a stop string; `"eos"`: an end token; `"length"`: `turn_tokens`; `"context"`: the row is full."""
    weight_version: int = 0
    """Version of the weights that sampled the turn's first token (see `TurnSampler.refresh`)."""


@runtime_checkable
class TurnSampler(Protocol):
    """Samples turns of many rows. A row is the token sequence of one episode: prompt, turns and environment text.

    Rows are independent: the tokens of a row depend only on its earlier tokens, its seed and the weights (up to
    rounding), never on other rows or on timing. All methods are called from one thread, except `wake`.
    """

    context_tokens: int
    """Maximum tokens per row, prompt and environment text included."""
    weight_version: int
    """Version of the current sampling weights."""

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """Add a row and begin its first turn. The prompt has at least one token; `key` must not be in use."""
        ...

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """Append environment text (possibly none) to a row with a finished turn, and begin its next turn."""
        ...

    def finish(self, key: Hashable) -> None:
        """Remove a row, whatever its state."""
        ...

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """Sample until some rows have finished their turns, and return these turns.

        Args:
            minimum: number of turns to wait for. Fewer are returned only if no other row is being sampled, or after
                `wake`.

        Raises:
            TrainingError: if the sampler's engine has failed permanently.
        """
        ...

    def wake(self) -> None:
        """Make a `run` in progress (or the next one) return soon with the finished turns. Callable from any thread."""
        ...

    def greedy(self) -> AbstractContextManager[None]:
        """A context in which every token is the most likely one. There are no rows when it is entered or left."""
        ...

    def refresh(self, version: int | None = None) -> None:
        """Load the learner's changed weights; cached results of the old weights are discarded.

        A turn in progress is finished with the new weights, or sampled again from its beginning.

        Args:
            version: version number of the new weights; None adds one.
        """
        ...

    def before_training(self) -> None:
        """Prepare for training on the sampled turns; the sampler checks, where it can, that they are valid.

        If no turn is in progress, nothing is sampled until the next `refresh`. A sampler that shares its device
        with the learner then frees memory.

        Raises:
            TrainingError: if the sampled turns cannot be used.
        """
        ...

    def close(self) -> None:
        """Release all resources. Calling it twice is allowed."""
        ...
