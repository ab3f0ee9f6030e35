"""A sampler on an engine that answers one request per turn, such as vLLM in this process or on servers.

The engine receives a row's token ids, never text, and returns ids and log-probabilities. Text from the engine is
ignored: the text of a turn and its end are determined from the ids, by the same rules for every engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zerosearch_env.errors import EngineError, TrainingError
from zerosearch_env.randomness import mix

from .protocol import Finish, TurnSample
from .rows import Row, RowSampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A request to sample one turn."""

    prompt_ids: tuple[int, ...]
    """The whole row so far."""
    max_tokens: int
    seed: int
    """63 bits."""
    home: int
    """Number of the row: with several servers, a row stays on the server that has its prefix in the cache."""
    greedy: bool = False
    """Whether to take the most likely token, whatever the temperature."""


@dataclass(frozen=True, slots=True)
class TurnReply:
    """The sampled turn. Tokens after the one that ends the turn are allowed; they are cut off."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    """Whether the engine reports that a stop string or an end token ended it, not the token limit."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Sampling settings of an engine, the same for every turn."""

    stop_strings: tuple[str, ...]
    end_ids: tuple[int, ...]
    """Tokens that end a turn."""
    temperature: float
    top_p: float = 1.0
    """Nucleus sampling, only for inference: the engine's log-probabilities are those of all tokens."""


class TurnEngine(Protocol):
    """Samples turns asynchronously, and loads weights."""

    def submit(self, number: int, request: TurnRequest) -> None:
        """Begin a turn; `number` identifies its reply and is used only once."""
        ...

    def wait(self) -> list[tuple[int, TurnReply]]:
        """Return the finished replies; if there are none, wait for one or for `wake`.

        Call it only while at least one turn is in progress.

        Raises:
            EngineError: if a turn failed permanently.
        """
        ...

    def wake(self) -> None:
        """Make `wait` return soon. Callable from any thread."""
        ...

    def cancel(self, number: int) -> None:
        """Drop a turn in progress; its reply may still arrive."""
        ...

    def load(self, version: int) -> None:
        """Load the learner's weights and drop every cache of the old ones. No turn is in progress.

        Raises:
            EngineError: if the weights could not be loaded.
        """
        ...

    def check(self) -> None:
        """Check that the turns sampled since `load` can be used. Turns may be in progress.

        Raises:
            EngineError: if they cannot be used.
        """
        ...

    def before_training(self) -> None:
        """See `TurnSampler.before_training`. No turn is in progress."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


@dataclass(slots=True, eq=False)
class _RequestRow(Row):
    home: int = 0
    number: int = -1
    """Of the last request; -1: none yet."""


class EngineSampler(RowSampler[_RequestRow]):
    """See `TurnSampler`.

    Args:
        engine: the engine that samples.
        tokenizer: decodes sampled tokens, for stop strings and `TurnSample.text`.
        vocab_size: number of token ids; valid ids are below it.
        limits: sampling settings of the engine.
        context_tokens: maximum tokens per row.
        turn_tokens: maximum tokens sampled per turn.
        seed: XORed with every row's seed.
    """

    _row_type = _RequestRow

    def __init__(
        self,
        engine: TurnEngine,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        limits: TurnLimits,
        *,
        context_tokens: int,
        turn_tokens: int,
        seed: int = 0,
    ) -> None:
        super().__init__(
            tokenizer,
            vocab_size,
            limits.stop_strings,
            context_tokens=context_tokens,
            turn_tokens=turn_tokens,
            seed=seed,
        )
        self.engine = engine
        self._end_ids = frozenset(limits.end_ids)
        self._busy: dict[int, _RequestRow] = {}
        self._numbers = 0
        self._homes = 0

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`.

        Raises:
            TrainingError: if a turn failed permanently, or its reply is invalid.
        """
        finished = self._full_turns()
        while len(finished) < minimum and self._busy:
            with _blame():
                replies = self.engine.wait()
            # A reply to a cancelled turn may still arrive: it is ignored.
            known = [(row, reply) for number, reply in replies if (row := self._busy.pop(number, None)) is not None]
            finished += [self._end(row, reply) for row, reply in known]
            if not known:
                break
        return finished

    def wake(self) -> None:
        """See `TurnSampler.wake`."""
        self.engine.wake()

    def refresh(self, version: int | None = None) -> None:
        """See `TurnSampler.refresh`; turns in progress restart from their beginning with the new weights.

        Raises:
            TrainingError: if the weights could not be loaded.
        """
        version = self.weight_version + 1 if version is None else version
        rows, full = list(self._busy.values()), self._full
        for row in rows:
            self.engine.cancel(row.number)
        self._busy.clear()
        self._full = []
        with _blame():
            self.engine.load(version)
        self.weight_version = version
        self._after_load()
        self._full += full
        for row in rows:
            self._submit(row)

    def _after_load(self) -> None:
        """Hook for subclasses to test new weights after loading; no turn is in progress."""

    def before_training(self) -> None:
        """See `TurnSampler.before_training`. While turns are in progress it only checks, and frees no memory.

        Raises:
            TrainingError: if the sampled turns cannot be used.
        """
        with _blame():
            if self._busy:
                self.engine.check()
            else:
                self.engine.before_training()

    def close(self) -> None:
        """See `TurnSampler.close`."""
        self.engine.close()

    def _begin(self, row: _RequestRow) -> None:
        if row.number < 0:
            row.home = self._homes
            self._homes += 1
        row.limit = min(row.limit, self.context_tokens - len(row.ids))
        self._submit(row)

    def _drop(self, row: _RequestRow) -> None:
        if self._busy.pop(row.number, None) is not None:
            self.engine.cancel(row.number)

    def _submit(self, row: _RequestRow) -> None:
        row.number, row.version = self._numbers, self.weight_version
        self._numbers += 1
        self._busy[row.number] = row
        # The seed depends only on row and position, so a turn that is requested again draws the same numbers.
        seed = mix(row.seed, len(row.ids)) >> 1
        self.engine.submit(row.number, TurnRequest(tuple(row.ids), row.limit, seed, row.home, self._greedy))

    def _end(self, row: _RequestRow, reply: TurnReply) -> TurnSample:
        ids, logprobs = reply.token_ids, reply.logprobs
        if not ids or len(ids) != len(logprobs) or min(ids) < 0 or max(ids) >= self._vocab_size:
            raise TrainingError(
                f"expected 1 to {row.limit} token ids below {self._vocab_size} with one log-probability each, got "
                f"{len(ids)} ids and {len(logprobs)} log-probabilities: {ids[:8]!r}, {logprobs[:8]!r}"
            )
        if not np.isfinite(logprobs).all():
            raise TrainingError(f"the engine sampled tokens with the log-probabilities {logprobs[:8]!r}")
        count, finish = self._cut(ids, row, reply.stopped)
        return self._turn(row, ids[:count], logprobs[:count], finish)

    def _cut(self, ids: Sequence[int], row: _RequestRow, stopped: bool) -> tuple[int, Finish]:
        """Return how many of the tokens belong to the turn, and why it ends there.

        The turn ends with the first token that completes a stop string or is an end token. Engines that sample several
        tokens per step, or match stop strings in text, may return more tokens; no kept token depends on those.
        """
        for count, token in enumerate(ids[: row.limit], start=1):
            if token in self._end_ids:
                return count, "eos"
            if self._stops.candidates[token] and self._stops.completed(ids[:count]):
                return count, "stop"
        if len(ids) >= row.limit:
            return row.limit, "context" if len(row.ids) + row.limit >= self.context_tokens else "length"
        if stopped:
            return len(ids), "stop"  # stopped by the engine's own rule: keep all ids
        raise TrainingError(
            f"the engine ended a turn after {len(ids)} of at most {row.limit} tokens because of a "
            "length limit: its own context is shorter than context_tokens"
        )


@contextmanager
def _blame() -> Iterator[None]:
    """Turn an `EngineError` into a `TrainingError`, which ends the run: there is no other engine to sample with."""
    try:
        yield
    except EngineError as error:
        raise TrainingError(f"the sampler failed: {error}") from error


def as_floats(values: Sequence[Any]) -> tuple[float, ...]:
    """Convert an engine's log-probabilities to floats.

    Raises:
        ValueError: if one of them is not a number.
    """
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as cause:
        raise ValueError(f"expected a log-probability for every token, got {str(values)[:200]}") from cause
