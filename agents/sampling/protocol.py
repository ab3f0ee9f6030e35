"""What every sampler is to the rest of the learner: ids in; ids, log-probabilities, finish and weight version out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Finish = Literal["stop", "eos", "length", "context"]


@dataclass(frozen=True, slots=True)
class TurnSample:
    """One finished turn of one row."""

    key: Hashable
    token_ids: tuple[int, ...]
    """Every token sampled in this turn, the one that ended it included."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the distribution it was drawn from (temperature 1 when greedy)."""
    text: str
    """The tokens' text, without an end-of-sequence token."""
    finish: Finish
    """`"stop"`: a stop string; `"eos"`: an end token; `"length"`: `turn_tokens`; `"context"`: the row is full."""
    weight_version: int = 0
    """Version of the weights that sampled the turn's first token (see `TurnSampler.refresh`)."""


@runtime_checkable
class TurnSampler(Protocol):
    """Samples turns of many rows, each of which grows by turns and environment text.

    Rows are independent: what one samples depends on its tokens, its seed and the weights alone (up to rounding), never
    on the other rows or on timing. All methods are called from one thread, except `wake`.
    """

    context_tokens: int
    """Most tokens of a row, prompt and environment text included."""
    weight_version: int
    """Version of the weights that sample now."""

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """Add a row and begin its first turn. Its prompt is one token at least; `key` is not in use."""
        ...

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """Append environment text, one token at least, to a row whose turn is finished, and begin its next turn."""
        ...

    def finish(self, key: Hashable) -> None:
        """Forget a row, whatever it is doing."""
        ...

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """Sample until rows have finished their turns, and return those.

        Args:
            minimum: how many to wait for. Fewer come back only when no other row is being sampled, or after `wake`.

        Raises:
            TrainingError: the engine behind the sampler has failed for good.
        """
        ...

    def wake(self) -> None:
        """Have a `run` in progress (or the next one) return soon, with what is finished. From any thread."""
        ...

    def refresh(self, version: int | None = None) -> None:
        """Take over the learner's changed weights; nothing that was computed with the old ones is used again.

        A turn in progress is finished with the new weights, or sampled anew with them.

        Args:
            version: what the new weights are called; None counts up by one.
        """
        ...

    def before_training(self) -> None:
        """What was sampled is about to be trained on: a sampler checks that it can be, as far as there is doubt.

        Where no turn is in progress nothing is sampled until the next `refresh`: one that shares a GPU with the learner
        frees memory.

        Raises:
            TrainingError: what was sampled cannot be used.
        """
        ...

    def close(self) -> None:
        """Release what the sampler holds. Calling it twice is fine."""
        ...
