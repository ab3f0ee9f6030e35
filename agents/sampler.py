"""Token-in, token-out sampling of many multi-turn rows at once, with the cache kept across turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerosearch_env.errors import ConfigError
from zerosearch_env.randomness import uniform_rows

from .decoder import make_decoder
from .sampling import draw
from .stops import StopFinder, decode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


class _Row:
    """A row: its tokens, where they are cached, and the turn in progress."""

    __slots__ = ("cached", "ids", "key", "logprobs", "seed", "slot", "turn_start", "waiting")

    def __init__(self, key: Hashable, ids: list[int], seed: int) -> None:
        self.key = key
        self.ids = ids
        self.seed = seed & ((1 << 64) - 1)
        self.logprobs: list[float] = []
        self.slot: int | None = None
        self.cached = 0
        self.turn_start = len(ids)
        self.waiting = False


class Sampler:
    """Samples turns of many rows with one model. Rows beyond `slots` wait for a free slot.

    What a row samples depends on its tokens and its seed alone, not on the other rows nor on the number of slots
    (up to floating-point noise): the draw at position i of a row uses `uniform(seed, i)`.

    Args:
        model: a causal language model; its weights are read at construction and at `refresh`.
        tokenizer: decodes sampled tokens, for stop strings and `TurnSample.text`.
        slots: most rows that are cached at once.
        context_tokens: most tokens of a row, prompt and environment text included.
        stop_strings: a turn ends after the token that completes one of them.
        temperature: divides the logits; 0 is greedy.
        turn_tokens: most tokens sampled in a turn.
        seed: mixed into every row's seed by exclusive or.

    Raises:
        ConfigError: when an option cannot be used.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int,
        context_tokens: int,
        stop_strings: Sequence[str] = (),
        temperature: float = 1.0,
        turn_tokens: int,
        seed: int = 0,
    ) -> None:
        for name, value in {"slots": slots, "context_tokens": context_tokens, "turn_tokens": turn_tokens}.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        if not temperature >= 0 or temperature == float("inf"):
            raise ConfigError(f"temperature must be a finite number of at least 0, got {temperature}.")
        self.tokenizer = tokenizer
        self.temperature = float(temperature)
        self.turn_tokens = turn_tokens
        self.context_tokens = context_tokens
        self._seed = seed
        self._decoder = make_decoder(model, slots, context_tokens)
        self._stops = StopFinder(tokenizer, stop_strings, self._decoder.vocab_size)
        self._eos = np.zeros(self._decoder.vocab_size, dtype=np.bool_)
        self._eos[sorted(eos_ids(model, tokenizer))] = True
        self._free = list(range(slots))[::-1]
        self._rows: dict[Hashable, _Row] = {}
        self._pending: deque[_Row] = deque()
        self._active: list[_Row] = []

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """Add a row.

        Args:
            key: names the row; unused so far, or finished.
            ids: its prompt, at least one token.
            seed: 64-bit seed of everything the row samples.
        """
        if key in self._rows:
            raise ConfigError(f"row {key!r} is in use already; finish it first.")
        row = _Row(key, self._checked(ids), seed ^ self._seed)
        self._rows[key] = row
        self._pending.append(row)

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """Append environment text to a row whose turn is finished, and begin its next turn."""
        row = self._row(key)
        if not row.waiting:
            raise ConfigError(f"row {key!r} has not finished its turn.")
        row.ids += self._checked(ids)
        row.turn_start = len(row.ids)
        row.logprobs = []
        row.waiting = False
        self._pending.append(row)

    def finish(self, key: Hashable) -> None:
        """Forget a row and free its slot."""
        row = self._row(key)
        del self._rows[key]
        if row in self._active:
            self._active.remove(row)
        if row in self._pending:
            self._pending.remove(row)
        self._release(row)

    def refresh(self) -> None:
        """Take over changed weights: what is cached is dropped and computed anew when a row goes on."""
        self._decoder.refresh()
        for row in self._rows.values():
            row.cached = 0
        self._pending.extendleft(reversed(self._active))
        self._active.clear()

    @torch.inference_mode()
    def run(self) -> list[TurnSample]:
        """Decode until at least one row has finished its turn.

        Returns:
            The rows that finished; empty when no row is waiting to be sampled.
        """
        finished: list[TurnSample] = []
        while not finished and (self._pending or self._active):
            rows = self._admit(finished)
            if rows:
                logits = self._decoder.prefill(
                    [row.slot for row in rows if row.slot is not None],
                    [row.cached for row in rows],
                    [row.ids[row.cached :] for row in rows],
                )
                self._active += rows
            elif self._active:
                rows = list(self._active)
                logits = self._decoder.step(
                    torch.tensor([row.slot for row in rows]),
                    torch.tensor([row.cached for row in rows]),
                    torch.tensor([row.ids[-1] for row in rows]),
                )
            else:
                continue
            self._accept(rows, logits, finished)
        return finished

    def _admit(self, finished: list[TurnSample]) -> list[_Row]:
        """Pending rows that have, or get, a slot; those that are too long finish at once."""
        rows: list[_Row] = []
        for _ in range(len(self._pending)):
            row = self._pending.popleft()
            if len(row.ids) >= self.context_tokens:
                self._end(row, "context", finished)
                continue
            if row.slot is None and not self._free:
                self._evict()
            if row.slot is None and not self._free:
                self._pending.append(row)
                continue
            if row.slot is None:
                row.slot = self._free.pop()
            rows.append(row)
        return rows

    def _evict(self) -> None:
        """Take the slot of a row that waits for the environment, when nothing else can go on."""
        if self._active:
            return
        for row in self._rows.values():
            if row.waiting and row.slot is not None:
                self._release(row)
                return

    def _accept(self, rows: list[_Row], logits: Tensor, finished: list[TurnSample]) -> None:
        positions = np.array([len(row.ids) for row in rows])
        seeds: NDArray[np.uint64] = np.array([row.seed for row in rows], dtype=np.uint64)
        tokens, logprobs = draw(logits, torch.from_numpy(uniform_rows(seeds, positions)), self.temperature)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.cached = len(row.ids)
            row.ids.append(token)
            row.logprobs.append(logprob)
            turn = row.ids[row.turn_start :]
            if self._eos[token]:
                self._end(row, "eos", finished)
            elif self._stops.candidates[token] and self._stops.completed(turn):
                self._end(row, "stop", finished)
            elif len(row.ids) >= self.context_tokens:
                self._end(row, "context", finished)
            elif len(turn) >= self.turn_tokens:
                self._end(row, "length", finished)

    def _end(self, row: _Row, finish: Finish, finished: list[TurnSample]) -> None:
        if row in self._active:
            self._active.remove(row)
        row.waiting = True
        ids = row.ids[row.turn_start :]
        text = decode(self.tokenizer, ids[:-1] if finish == "eos" else ids)
        finished.append(TurnSample(row.key, tuple(ids), tuple(row.logprobs), text, finish))

    def _release(self, row: _Row) -> None:
        if row.slot is not None:
            self._free.append(row.slot)
        row.slot, row.cached = None, 0

    def _row(self, key: Hashable) -> _Row:
        if key not in self._rows:
            raise ConfigError(f"there is no row {key!r}.")
        return self._rows[key]

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = list(ids)
        if not ids:
            raise ConfigError("a row needs at least one token; got none.")
        if min(ids) < 0 or max(ids) >= self._decoder.vocab_size:
            raise ConfigError(f"token ids must be in [0, {self._decoder.vocab_size}), got {min(ids)}..{max(ids)}.")
        return ids


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end a sequence: those of the generation configuration, the configuration and the tokenizer."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        found |= {value} if isinstance(value, int) else set(value or ())
    return {token for token in found if 0 <= token < model.config.vocab_size}
