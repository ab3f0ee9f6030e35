"""Token-in, token-out sampling of many multi-turn rows in parallel, with the cache kept across turns.

A row waits for a slot, is prefilled, decodes one token per step together with all other active rows, and keeps its slot
and its cache while it waits for the environment:

    start -> _queue -> prefill -> _active: one decoding step after another -> turn finished, `waiting`
                          ^                                                        |
                          +------------ _ready (prefill the new text only) <-------+ extend
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.llm.chat import end_ids
from zerosearch_env.llm.local.decoder import make_decoder
from zerosearch_env.llm.local.draw import draw
from zerosearch_env.progress import WORK
from zerosearch_env.randomness import uniform_rows

from .protocol import Finish, TurnSample
from .rows import Row, RowSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PREFILL_TOKENS = 256
"""Number of pending tokens that justify an immediate prefill."""
_PATIENCE = 4
"""Decoding steps for which fewer pending tokens are postponed."""
_SHARED_TOKENS = 64
"""Prompts of at least this length are computed once for all rows with the same prompt; shorter ones gain nothing."""


@dataclass(slots=True, eq=False)
class _SlotRow(Row):
    slot: int = -1
    """Its place in the decoder's cache; -1: none."""
    cached: int = 0
    """Number of its tokens in the cache, before the current turn."""


class Sampler(RowSampler[_SlotRow]):
    """Samples turns of many rows with one model (see `TurnSampler`). Rows beyond `slots` wait for a free slot.

    The sampled tokens of a row depend only on its earlier tokens and its seed, not on other rows or the number of slots
    (up to floating-point noise): the draw at position i of a row uses `uniform(seed, i)`.

    Args:
        model: a causal language model; its weights are read at construction and at `refresh`.
        tokenizer: decodes sampled tokens, for stop strings and `TurnSample.text`.
        slots: maximum rows in the cache.
        context_tokens: maximum tokens per row, prompt and environment text included.
        stop_strings: a turn ends after the token that completes one of them.
        temperature: divides the logits; 0 is greedy.
        top_p: nucleus sampling; log-probabilities are then those among the tokens that are kept, not the learner's.
        turn_tokens: maximum tokens sampled per turn.
        seed: XORed with every row's seed.

    Raises:
        ConfigError: if an option is invalid.
    """

    _row_type = _SlotRow
    _counts_steps = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int,
        context_tokens: int,
        stop_strings: Sequence[str] = (),
        temperature: float = 1.0,
        top_p: float = 1.0,
        turn_tokens: int,
        seed: int = 0,
    ) -> None:
        check_whole_number("slots", slots)
        self.temperature = check_number("temperature", temperature, least=0)
        self._top_p = check_number("top_p", top_p, above=0, most=1)
        self._decoder = make_decoder(model, slots, context_tokens)
        super().__init__(
            tokenizer,
            self._decoder.vocab_size,
            stop_strings,
            context_tokens=context_tokens,
            turn_tokens=turn_tokens,
            seed=seed,
        )
        self._woken = threading.Event()
        self._eos = np.zeros(self._decoder.vocab_size, dtype=np.bool_)
        self._eos[sorted(end_ids(model, tokenizer, self._decoder.vocab_size))] = True
        self._ends = self._eos | self._stops.candidates
        self._queue: deque[_SlotRow] = deque()  # turns of rows without a slot
        self._ready: deque[_SlotRow] = deque()  # turns to begin or continue, of rows that have a slot
        self._prompts: dict[tuple[int, ...], _SlotRow] = {}  # the last row that began with a prompt
        self._postponed = 0
        self._free = list(range(slots))[::-1]
        # One entry per slot: the row that holds it and its turn in progress.
        self._holder: list[_SlotRow | None] = [None] * slots
        self._seeds: NDArray[np.uint64] = np.zeros(slots, dtype=np.uint64)
        self._lengths: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)  # of the whole row
        self._counts: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)  # of this turn
        self._limits: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)  # of this turn's tokens
        self._tokens: NDArray[np.int64] = np.zeros((slots, turn_tokens), dtype=np.int64)
        self._logprobs: NDArray[np.float32] = np.zeros((slots, turn_tokens), dtype=np.float32)
        self._active: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # slots that are decoding

    def wake(self) -> None:
        """See `TurnSampler.wake`: `run` returns after its current decoding step."""
        self._woken.set()

    def before_training(self) -> None:
        """Free the decoder's copy of the weights and its cache, unless a row is still being played."""
        if not self._rows:
            self._decoder.free()

    def close(self) -> None:
        """Nothing to release."""

    def refresh(self, version: int | None = None) -> None:
        """Load changed weights: the cache is dropped, and recomputed when a row continues.

        A turn in progress keeps its tokens so far; the rest is sampled with the new weights.

        Args:
            version: version number of the new weights; None adds one.
        """
        self.weight_version = self.weight_version + 1 if version is None else version
        self._decoder.refresh()
        for row in self._rows.values():
            row.cached = 0
            if row.slot >= 0:
                self._decoder.release(row.slot)
        self._ready.extendleft(row for slot in self._active if (row := self._holder[slot]) is not None)
        self._active = self._active[:0]

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """Decode until rows have finished their turns.

        Args:
            minimum: number of turns to wait for. Fewer are returned only if no other row is being sampled, or after
                `wake`.

        Returns:
            The finished turns, in the order in which they finished; empty if no row has a turn to sample.
        """
        finished = self._full_turns()
        while len(finished) < minimum and (self._queue or self._ready or len(self._active)):
            if self._woken.is_set():
                break
            rows = self._admit()
            if rows:
                self._prefill(rows, finished)
            else:
                slots = self._active
                lasts = self._tokens[slots, self._counts[slots] - 1]
                self._accept(slots, self._decoder.step(slots, self._lengths[slots] - 1, lasts), finished)
        self._woken.clear()
        return finished

    def _begin(self, row: _SlotRow) -> None:
        (self._ready if row.slot >= 0 else self._queue).append(row)

    def _drop(self, row: _SlotRow) -> None:
        for turns in (self._queue, self._ready):
            if row in turns:
                turns.remove(row)
        self._release(row)
        if not self._rows:  # the next rows are sampled as if they were the first
            self._prompts.clear()
            self._free.sort(reverse=True)
            self._postponed = 0

    def _admit(self) -> list[_SlotRow]:
        """Choose the rows to prefill now and give each a slot; at least one if no row is being decoded.

        A small amount of prefill is postponed for a few steps, because large batches are more efficient.
        """
        if not self._free and not self._ready and not len(self._active):
            self._make_room()
        fresh = min(len(self._free), len(self._queue))
        if not self._ready and not fresh:
            return []
        rows = [*self._ready, *islice(self._queue, fresh)]
        few = len(rows) * 4 < len(self._active) and sum(len(row.ids) - row.cached for row in rows) < _PREFILL_TOKENS
        if few and self._postponed < _PATIENCE:
            self._postponed += 1
            return []
        self._postponed = 0
        self._ready.clear()
        for row in rows:
            if row.slot < 0:
                self._queue.popleft()
                row.slot = self._free.pop()
                self._holder[row.slot] = row
                self._seeds[row.slot] = row.seed
                self._counts[row.slot] = 0
        return rows

    def _make_room(self) -> None:
        """Take slots from rows that wait for the environment, as many as there are rows in the queue.

        Happens only if the caller neither extends nor finishes rows that were returned to it.
        """
        waiting = [row for row in self._holder if row is not None and row.waiting]
        for row in waiting[: len(self._queue)]:
            self._release(row)

    def _prefill(self, rows: list[_SlotRow], finished: list[TurnSample]) -> None:
        slots = np.array([row.slot for row in rows])
        twins = self._share_prompts(rows)
        chunks = [[*row.ids, *self._tokens[row.slot, : self._counts[row.slot]].tolist()][row.cached :] for row in rows]
        firsts = [index for index, twin in enumerate(twins) if twin == index]
        logits = self._decoder.prefill(
            [rows[index].slot for index in firsts],
            [rows[index].cached for index in firsts],
            [chunks[index] for index in firsts],
        )
        if len(firsts) < len(rows):
            followers: dict[int, list[int]] = {}
            for index, twin in enumerate(twins):
                if twin != index:
                    followers.setdefault(twin, []).append(rows[index].slot)
            for twin, others in followers.items():
                self._decoder.copy(rows[twin].slot, others, len(rows[twin].ids))
            place = {index: number for number, index in enumerate(firsts)}
            logits = logits[torch.tensor([place[twin] for twin in twins], device=logits.device)]
        self._lengths[slots] = [row.cached + len(chunk) for row, chunk in zip(rows, chunks, strict=True)]
        self._limits[slots] = [row.limit for row in rows]
        for row in rows:
            if not self._counts[row.slot]:
                row.version = self.weight_version
        self._active = np.concatenate([self._active, slots])
        self._accept(slots, logits, finished)

    def _share_prompts(self, rows: list[_SlotRow]) -> list[int]:
        """For each row, return the index of the first row with the same prompt; it shares that row's prefill.

        If a row in another slot began with the same prompt, the prompt's cache is copied from there immediately, except
        for the last token: it must go through the model because its logits are needed.
        """
        twins: list[int] = []
        first: dict[tuple[int, ...], int] = {}
        for index, row in enumerate(rows):
            twins.append(index)
            if row.cached or self._counts[row.slot] or len(row.ids) < _SHARED_TOKENS:
                continue
            prompt = tuple(row.ids)
            twins[index] = first.setdefault(prompt, index)
            if twins[index] == index:
                donor = self._prompts.get(prompt)
                if donor is not None and donor.slot >= 0 and self._in_cache(donor) >= len(prompt) - 1:
                    self._decoder.copy(donor.slot, [row.slot], len(prompt) - 1)
                    row.cached = len(prompt) - 1
                self._prompts[prompt] = row
        return twins

    def _in_cache(self, row: _SlotRow) -> int:
        """Number of tokens of a row in the decoder's cache."""
        return int(self._lengths[row.slot]) - 1 if row.slot in self._active else row.cached

    @torch.inference_mode()
    def _accept(self, slots: NDArray[np.int64], logits: Tensor, finished: list[TurnSample]) -> None:
        """Draw the next token of each slot, and end the turns that are complete."""
        WORK.add(tokens=len(slots))
        uniforms = torch.from_numpy(uniform_rows(self._seeds[slots], self._lengths[slots])).to(logits.device)
        drawn, drawn_logprobs = draw(logits, uniforms, 0.0 if self._greedy else self.temperature, self._top_p)
        tokens = drawn.cpu().numpy()
        counts = self._counts[slots]
        self._tokens[slots, counts] = tokens
        self._logprobs[slots, counts] = drawn_logprobs.cpu().numpy()
        self._counts[slots] = counts + 1
        self._lengths[slots] += 1
        full = self._lengths[slots] >= self.context_tokens
        ended: list[int] = []
        for index in np.flatnonzero(self._ends[tokens] | full | (counts + 1 >= self._limits[slots])).tolist():
            slot = int(slots[index])
            if (finish := self._finish_reason(slot, int(tokens[index]), bool(full[index]))) is not None:
                finished.append(self._end(slot, finish))
                ended.append(slot)
        if ended:
            self._active = self._active[~np.isin(self._active, ended)]

    def _finish_reason(self, slot: int, token: int, full: bool) -> Finish | None:
        count = self._counts[slot]
        if self._eos[token]:
            return "eos"
        if self._stops.candidates[token] and self._stops.completed(self._tokens[slot, :count]):
            return "stop"
        if full:
            return "context"
        return "length" if count >= self._limits[slot] else None

    def _end(self, slot: int, finish: Finish) -> TurnSample:
        row = self._holder[slot]
        assert row is not None
        count = self._counts[slot]
        self._counts[slot] = 0
        tokens, logprobs = self._tokens[slot, :count].tolist(), self._logprobs[slot, :count].tolist()
        turn = self._turn(row, tokens, logprobs, finish)
        row.cached = len(row.ids) - 1  # the last token has not been through the model
        return turn

    def _release(self, row: _SlotRow) -> None:
        if row.slot < 0:
            return
        self._decoder.release(row.slot)
        self._active = self._active[self._active != row.slot]
        self._holder[row.slot] = None
        self._free.append(row.slot)
        row.slot, row.cached = -1, 0
