"""A sampler over an engine that answers one request a turn, such as vLLM in this process or on servers.

The engine is sent a row's ids, never text, and answers with ids and log-probabilities. Its text is not looked at: what
a turn says and where it ends is decided from the ids, by the same rules for every engine.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zerosearch_env.errors import ConfigError, EngineError, TrainingError
from zerosearch_env.randomness import mix

from .protocol import Finish, TurnSample
from .stops import StopFinder, decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What an engine needs to know of a turn."""

    prompt_ids: tuple[int, ...]
    """The whole row so far."""
    max_tokens: int
    seed: int
    """63 bits."""
    home: int
    """Number of the row: an engine of several servers keeps a row, whose beginning is in a cache, on the same one."""


@dataclass(frozen=True, slots=True)
class TurnReply:
    """What an engine has sampled. Tokens behind the one that ends the turn are allowed; they are cut off."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    """Whether the engine says that a stop string or an end token ended it, not the limit."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """How an engine is to sample, the same for every turn."""

    stop_strings: tuple[str, ...]
    end_ids: tuple[int, ...]
    """Tokens that end a turn."""
    temperature: float


class TurnEngine(Protocol):
    """Answers turns, each at its own time, and takes over weights."""

    def submit(self, number: int, request: TurnRequest) -> None:
        """Begin a turn; its reply is known by `number`, which is used once."""
        ...

    def wait(self) -> list[tuple[int, TurnReply]]:
        """Replies that are there; waits for one, or for `wake`, when there is none. At least one turn is in progress.

        Raises:
            EngineError: a turn failed for good.
        """
        ...

    def wake(self) -> None:
        """Have `wait` return soon. From any thread."""
        ...

    def cancel(self, number: int) -> None:
        """Forget a turn in progress; its reply may come all the same."""
        ...

    def load(self, version: int) -> None:
        """Take over the learner's weights, and drop every cache of the old ones. No turn is in progress.

        Raises:
            EngineError: the weights could not be brought in.
        """
        ...

    def check(self) -> None:
        """Find out whether what was sampled since `load` can be used. Turns may be in progress.

        Raises:
            EngineError: it cannot.
        """
        ...

    def before_training(self) -> None:
        """See `TurnSampler.rest`. No turn is in progress."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class _Row:
    __slots__ = ("home", "ids", "key", "limit", "number", "seed", "version")

    def __init__(self, key: Hashable, ids: list[int], seed: int, home: int) -> None:
        self.key, self.ids, self.seed, self.home = key, ids, seed, home
        self.limit = 0
        self.number = -1  # of the request in progress; -1: the turn is finished
        self.version = 0


class EngineSampler:
    """See `TurnSampler`.

    Args:
        engine: who samples.
        tokenizer: decodes sampled tokens, for stop strings and `TurnSample.text`.
        vocab_size: token ids are below it.
        limits: what the engine samples by.
        context_tokens: most tokens of a row.
        turn_tokens: most tokens sampled in a turn.
        seed: mixed into every row's seed by exclusive or.
    """

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
        for name, value in {"context_tokens": context_tokens, "turn_tokens": turn_tokens}.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        self.engine = engine
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        self.turn_tokens = turn_tokens
        self.weight_version = 0
        self._seed = seed
        self._vocab_size = vocab_size
        self._stops = StopFinder(tokenizer, limits.stop_strings, vocab_size)
        self._end_ids = frozenset(limits.end_ids)
        self._rows: dict[Hashable, _Row] = {}
        self._busy: dict[int, _Row] = {}
        self._full: list[_Row] = []
        self._numbers = 0
        self._homes = 0

    def start(self, key: Hashable, ids: Sequence[int], seed: int, *, turn_tokens: int | None = None) -> None:
        """See `TurnSampler.start`; `turn_tokens` is a lower limit for this turn.

        Raises:
            ConfigError: when the key is in use, or the ids are none or not in the vocabulary.
        """
        if key in self._rows:
            raise ConfigError(f"row {key!r} is in use already; finish it first.")
        row = _Row(key, self._checked(ids), seed ^ self._seed, self._homes)
        self._homes += 1
        self._rows[key] = row
        self._begin(row, turn_tokens)

    def extend(self, key: Hashable, ids: Sequence[int], *, turn_tokens: int | None = None) -> None:
        """See `TurnSampler.extend`; `turn_tokens` is a lower limit for this turn.

        Raises:
            ConfigError: when there is no such row, its turn is not finished, or the ids cannot be used.
        """
        row = self._row(key)
        if row.number >= 0 or row in self._full:
            raise ConfigError(f"row {key!r} has not finished its turn.")
        row.ids += self._checked(ids)
        self._begin(row, turn_tokens)

    def finish(self, key: Hashable) -> None:
        """See `TurnSampler.finish`."""
        row = self._row(key)
        del self._rows[key]
        if row in self._full:
            self._full.remove(row)
        if self._busy.pop(row.number, None) is not None:
            self.engine.cancel(row.number)

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`.

        Raises:
            TrainingError: a turn failed for good, or its reply is not what was asked for.
        """
        finished = [TurnSample(row.key, (), (), "", "context", row.version) for row in self._full]
        self._full.clear()
        while len(finished) < minimum and self._busy:
            with _blame():
                replies = self.engine.wait()
            # A turn that was cancelled may still have been answered.
            known = [(row, reply) for number, reply in replies if (row := self._busy.pop(number, None)) is not None]
            finished += [self._end(row, reply) for row, reply in known]
            if not known:
                break
        return finished

    def wake(self) -> None:
        """See `TurnSampler.wake`."""
        self.engine.wake()

    def refresh(self, version: int | None = None) -> None:
        """See `TurnSampler.refresh`; turns in progress begin anew with the new weights.

        Raises:
            TrainingError: the weights could not be brought in.
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
        """New weights are in, and no turn is in progress yet: a subclass may try them out."""

    def before_training(self) -> None:
        """See `TurnSampler.rest`. While turns are in progress, what was sampled is checked and nothing is freed.

        Raises:
            TrainingError: what was sampled cannot be used.
        """
        with _blame():
            if self._busy:
                self.engine.check()
            else:
                self.engine.before_training()

    def close(self) -> None:
        """See `TurnSampler.close`."""
        self.engine.close()

    def _begin(self, row: _Row, turn_tokens: int | None) -> None:
        limit = self.turn_tokens if turn_tokens is None else turn_tokens
        if not 1 <= limit <= self.turn_tokens:
            raise ConfigError(f"turn_tokens must be in [1, {self.turn_tokens}], got {limit}.")
        row.limit = min(limit, self.context_tokens - len(row.ids))
        if row.limit < 1:
            row.version = self.weight_version
            self._full.append(row)
        else:
            self._submit(row)

    def _submit(self, row: _Row) -> None:
        row.number, row.version = self._numbers, self.weight_version
        self._numbers += 1
        self._busy[row.number] = row
        # The seed is that of the position: a turn draws the same whatever became of the requests before it.
        seed = mix(row.seed, len(row.ids)) >> 1
        self.engine.submit(row.number, TurnRequest(tuple(row.ids), row.limit, seed, row.home))

    def _end(self, row: _Row, reply: TurnReply) -> TurnSample:
        row.number = -1
        ids, logprobs = reply.token_ids, reply.logprobs
        if not ids or len(ids) != len(logprobs) or min(ids) < 0 or max(ids) >= self._vocab_size:
            raise TrainingError(
                f"expected 1 to {row.limit} token ids below {self._vocab_size} with one log-probability each, got "
                f"{len(ids)} ids and {len(logprobs)} log-probabilities: {ids[:8]!r}, {logprobs[:8]!r}"
            )
        if not np.isfinite(logprobs).all():
            raise TrainingError(f"the engine sampled tokens with the log-probabilities {logprobs[:8]!r}")
        count, finish = self._cut(ids, row, reply.stopped)
        ids, logprobs = ids[:count], logprobs[:count]
        row.ids += ids
        text = decode(self.tokenizer, ids[:-1] if finish == "eos" else ids)
        return TurnSample(row.key, ids, logprobs, text, finish, row.version)

    def _cut(self, ids: Sequence[int], row: _Row, stopped: bool) -> tuple[int, Finish]:
        """How many of the tokens belong to the turn, and why it ends there.

        The first token that completes a stop string or is an end token is the last one. Engines that sample several
        tokens at once, or match stop strings in text, may go on behind it; what they sampled there is nobody's past.
        """
        for count, token in enumerate(ids[: row.limit], start=1):
            if token in self._end_ids:
                return count, "eos"
            if self._stops.candidates[token] and self._stops.completed(ids[:count]):
                return count, "stop"
        if len(ids) >= row.limit:
            return row.limit, "context" if len(row.ids) + row.limit >= self.context_tokens else "length"
        if stopped:
            return len(ids), "stop"  # by a rule of the engine's own: the ids are kept as they are
        raise TrainingError(
            f"the engine ended a turn after {len(ids)} of at most {row.limit} tokens and says that it was cut by a "
            "length: its own context is shorter than context_tokens"
        )

    def _row(self, key: Hashable) -> _Row:
        if key not in self._rows:
            raise ConfigError(f"there is no row {key!r}.")
        return self._rows[key]

    def _checked(self, ids: Sequence[int]) -> list[int]:
        ids = list(ids)
        if not ids:
            raise ConfigError("a row needs at least one token; got none.")
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise ConfigError(f"token ids must be in [0, {self._vocab_size}), got {min(ids)}..{max(ids)}.")
        return ids


@contextmanager
def _blame() -> Iterator[None]:
    """An engine that fails ends the run: there is nobody else to sample."""
    try:
        yield
    except EngineError as error:
        raise TrainingError(f"the sampler failed: {error}") from error


def as_floats(values: Sequence[Any]) -> tuple[float, ...]:
    """Numbers of an engine's answer.

    Raises:
        ValueError: one of them is none.
    """
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as cause:
        raise ValueError(f"expected a log-probability for every token, got {str(values)[:200]}") from cause
