"""The part that all samplers share: rows, the checks of what callers pass, and the end of a turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from zerosearch_env.checks import check_whole_number
from zerosearch_env.errors import ConfigError
from zerosearch_env.progress import WORK

from .protocol import Finish, TurnSample
from .stops import StopFinder, decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True, eq=False)
class Row:
    """The tokens of one episode so far, and its current turn."""

    key: Hashable
    ids: list[int]
    """Without the tokens of the turn in progress."""
    seed: int
    """64 bits."""
    limit: int = 0
    """Maximum tokens of the current turn."""
    version: int = 0
    """Version of the weights that sampled the turn's first token."""
    waiting: bool = False
    """Whether the turn is finished, so that the row waits for the environment."""


RowT = TypeVar("RowT", bound=Row)


class RowSampler(ABC, Generic[RowT]):
    """The rows of a sampler (see `TurnSampler`). A subclass samples their turns, and names its type of rows.

    Args:
        tokenizer: decodes sampled tokens, for stop strings and `TurnSample.text`.
        vocab_size: number of token ids; valid ids are below it.
        stop_strings: a turn ends after the token that completes one of them.
        context_tokens: maximum tokens per row, prompt and environment text included.
        turn_tokens: maximum tokens sampled per turn.
        seed: XORed with every row's seed.

    Raises:
        ConfigError: if an option is invalid.
    """

    _row_type: ClassVar[type[Row]] = Row
    _counts_steps: ClassVar[bool] = False
    """Whether the subclass itself adds tokens to `WORK` during a turn; otherwise they are added at its end."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        stop_strings: Sequence[str],
        *,
        context_tokens: int,
        turn_tokens: int,
        seed: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_tokens = check_whole_number("context_tokens", context_tokens)
        self.turn_tokens = check_whole_number("turn_tokens", turn_tokens)
        self.weight_version = 0
        self._vocab_size = vocab_size
        self._seed = seed
        self._stops = StopFinder(tokenizer, stop_strings, vocab_size)
        self._rows: dict[Hashable, RowT] = {}
        self._full: list[RowT] = []  # rows whose next turn has no room in the context
        self._greedy = False

    @contextmanager
    def greedy(self) -> Iterator[None]:
        """See `TurnSampler.greedy`.

        Raises:
            ConfigError: if there are rows.
        """
        if self._rows:
            raise ConfigError(f"{len(self._rows)} rows are being sampled; finish them first.")
        self._greedy = True
        try:
            yield
        finally:
            self._greedy = False

    def start(self, key: Hashable, ids: Sequence[int], seed: int, *, turn_tokens: int | None = None) -> None:
        """Add a row, and begin its first turn.

        Args:
            key: identifies the row; not in use by another row.
            ids: the prompt, at least one token. A prompt that fills the context ends the first turn immediately,
                without a token, with `"context"`.
            seed: 64-bit sampling seed of the row.
            turn_tokens: a smaller token limit for this turn; None: the sampler's limit.

        Raises:
            ConfigError: if the key is in use, or the ids are empty or not in the vocabulary.
        """
        if key in self._rows:
            raise ConfigError(f"row {key!r} is in use already; finish it first.")
        row: RowT = self._row_type(key, [], (seed ^ self._seed) & ((1 << 64) - 1))  # type: ignore[assignment]
        self._append(row, ids, turn_tokens)
        self._rows[key] = row

    def extend(self, key: Hashable, ids: Sequence[int], *, turn_tokens: int | None = None) -> None:
        """Append environment text to a row with a finished turn, and begin its next turn.

        Args:
            key: identifies the row.
            ids: the tokens of the text; may be empty.
            turn_tokens: a smaller token limit for this turn; None: the sampler's limit.

        Raises:
            ConfigError: if there is no such row, its turn is not finished, or the ids are invalid.
        """
        row = self._row(key)
        if not row.waiting:
            raise ConfigError(f"row {key!r} has not finished its turn.")
        self._append(row, ids, turn_tokens)

    def finish(self, key: Hashable) -> None:
        """Remove a row, whatever its state."""
        row = self._row(key)
        del self._rows[key]
        if row in self._full:
            self._full.remove(row)
        self._drop(row)

    @abstractmethod
    def _begin(self, row: RowT) -> None:
        """Begin the next turn of a row; its context has room for at least one token."""

    @abstractmethod
    def _drop(self, row: RowT) -> None:
        """Stop the turn of a removed row, if it is in progress, and free what it holds."""

    def _append(self, row: RowT, ids: Iterable[int], turn_tokens: int | None) -> None:
        ids, limit = list(ids), self.turn_tokens if turn_tokens is None else turn_tokens
        if not 1 <= limit <= self.turn_tokens:
            raise ConfigError(f"turn_tokens must be in [1, {self.turn_tokens}], got {limit}.")
        if not row.ids and not ids:
            raise ConfigError("a row needs at least one token; got none.")
        if ids and (min(ids) < 0 or max(ids) >= self._vocab_size):
            raise ConfigError(f"token ids must be in [0, {self._vocab_size}), got {min(ids)}..{max(ids)}.")
        row.ids += ids
        row.limit, row.version, row.waiting = limit, self.weight_version, False
        if len(row.ids) >= self.context_tokens:
            self._full.append(row)
        else:
            self._begin(row)

    def _full_turns(self) -> list[TurnSample]:
        """End the turns that have no room in the context."""
        rows, self._full = self._full, []
        return [self._turn(row, (), (), "context") for row in rows]

    def _turn(self, row: RowT, ids: Sequence[int], logprobs: Sequence[float], finish: Finish) -> TurnSample:
        """End a turn with these tokens."""
        # As an endpoint counts: every turn reads its whole context, whatever of it is in a cache.
        read = len(row.ids) if ids else 0
        row.ids += ids
        row.waiting = True
        WORK.add(turns=1, tokens=0 if self._counts_steps else len(ids), read=read)
        text = decode(self.tokenizer, ids[:-1] if finish == "eos" else ids)
        return TurnSample(row.key, tuple(ids), tuple(logprobs), text, finish, row.version)

    def _row(self, key: Hashable) -> RowT:
        if key not in self._rows:
            raise ConfigError(f"there is no row {key!r}.")
        return self._rows[key]
