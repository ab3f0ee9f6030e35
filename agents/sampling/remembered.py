"""Turns that were finished before are remembered, so that a context that returns is not decoded again.

An evaluation plays the same questions at several noise levels with coupled draws. A greedy policy then meets most of
its contexts again: the first turn of a question at every level, and later turns wherever its searches returned the same
documents. A turn depends only on its context, the weights and, unless it is greedy, the seed of its row. So the turn
that was sampled at the first meeting is valid at the next one.

                       the context is known
    start, extend --------------------------> `_known` ------+
          |                                                  | run
          | it is not: the inner sampler gets the tokens     v
          +--------- that its row lacks --> `_asked` ---> turn finished

Nothing may be trained on remembered turns: a gradient assumes that the present weights sampled them.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from zerosearch_env.bounded_cache import BoundedCache
from zerosearch_env.errors import ConfigError
from zerosearch_env.progress import WORK

from .protocol import Finish, TurnSample, TurnSampler

TURNS = 32_768
"""Turns that a memory holds. A noise level meets the contexts of the one before in the same order, so a memory that is
too small for one level would forget each turn shortly before it returns. This is room for 10,000 questions with three
turns: about 60 MB with 64 tokens per turn, 350 MB with 512."""


class _Turn(NamedTuple):
    """A finished turn, with its numbers packed: as tuples they would take four times the memory."""

    token_ids: array[int]
    logprobs: array[float]
    text: str
    finish: Finish


class TurnMemory(BoundedCache[bytes, _Turn]):
    """The finished turns of one policy. Its samplers may differ in stop strings and limits, but not in weights.

    Args:
        turns: number of turns; when it is full, the least recently used one is forgotten.
    """

    def __init__(self, turns: int = TURNS) -> None:
        super().__init__(turns)


@dataclass(slots=True, eq=False)
class _Row:
    key: Hashable
    seed: int
    context: blake2b
    """Of everything that decides the next turn: the settings, the seed if it matters, and all tokens so far."""
    lacking: list[int] = field(default_factory=list)
    """The last tokens of the row, which its row in the inner sampler does not have yet."""
    inner: bool = False
    """Whether the inner sampler has a row for it."""
    waiting: bool = False
    """Whether the turn is finished, so that the row waits for the environment."""


class RememberingSampler:
    """A `TurnSampler` that takes known turns from a memory, and has another sampler sample the rest.

    Args:
        make: makes the inner sampler, at the first context that is not known.
        memory: known turns; new ones are added.
        settings: what decides a turn apart from weights, tokens and seed: stop strings, token limits, temperature and
            so on. Anything with a complete `repr`.
        context_tokens: maximum tokens per row of the inner sampler.
        seeded: whether turns also depend on the seed of their row; False if every token is the most likely one.
    """

    def __init__(
        self,
        make: Callable[[], TurnSampler],
        memory: TurnMemory,
        settings: object,
        *,
        context_tokens: int,
        seeded: bool,
    ) -> None:
        self.context_tokens = context_tokens
        self.weight_version = 0
        self._make = make
        self._inner: TurnSampler | None = None
        self._memory = memory
        self._settings = settings
        self._seeded = seeded
        self._rows: dict[Hashable, _Row] = {}
        self._known: dict[Hashable, tuple[_Row, _Turn]] = {}  # turns to return
        self._asked: set[Hashable] = set()  # rows whose turns the inner sampler samples
        self._woken = threading.Event()

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """See `TurnSampler.start`.

        Raises:
            ConfigError: if the key is in use, or the ids are empty or not in the vocabulary.
        """
        if key in self._rows:
            raise ConfigError(f"row {key!r} is in use already; finish it first.")
        settings = repr((self._settings, seed if self._seeded else None)).encode()
        # Numbers of a fixed length follow, so the length of the settings keeps different contexts apart.
        row = _Row(key, seed, blake2b(len(settings).to_bytes(8) + settings, digest_size=32))
        self._begin(row, ids)
        self._rows[key] = row

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """See `TurnSampler.extend`.

        Raises:
            ConfigError: if there is no such row, its turn is not finished, or the ids are invalid.
        """
        row = self._row(key)
        if not row.waiting:
            raise ConfigError(f"row {key!r} has not finished its turn.")
        self._begin(row, ids)

    def finish(self, key: Hashable) -> None:
        """See `TurnSampler.finish`."""
        row = self._row(key)
        del self._rows[key]
        self._known.pop(key, None)
        self._asked.discard(key)
        if row.inner:
            self._open().finish(key)

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`. If enough turns are known, they are returned without sampling.

        Raises:
            TrainingError: if the inner sampler's engine has failed permanently.
        """
        known, self._known = list(self._known.values()), {}
        finished = [self._recall(row, turn) for row, turn in known]
        if self._asked and len(finished) < minimum:
            finished += [self._remember(sample) for sample in self._open().run(minimum - len(finished))]
        self._woken.clear()
        return finished

    def wake(self) -> None:
        """See `TurnSampler.wake`."""
        self._woken.set()
        if self._inner is not None:
            self._inner.wake()

    @contextmanager
    def greedy(self) -> Iterator[None]:
        """See `TurnSampler.greedy`.

        Raises:
            ConfigError: if there are rows.
        """
        if self._rows:
            raise ConfigError(f"{len(self._rows)} rows are being sampled; finish them first.")
        settings, seeded = self._settings, self._seeded
        self._settings, self._seeded = (settings, "greedy"), False
        try:
            with self._open().greedy():
                yield
        finally:
            self._settings, self._seeded = settings, seeded

    def refresh(self, version: int | None = None) -> None:
        """See `TurnSampler.refresh`. The sampler forgets all turns; others with the same memory keep them."""
        inner = self._open()
        inner.refresh(version)
        self.weight_version = inner.weight_version
        self._memory = TurnMemory()
        known, self._known = list(self._known.values()), {}
        for row, _ in known:
            self._ask(row, row.lacking)

    def before_training(self) -> None:
        """See `TurnSampler.before_training`.

        Raises:
            TrainingError: if the inner sampler's turns cannot be used.
        """
        if self._inner is not None:
            self._inner.before_training()

    def close(self) -> None:
        """See `TurnSampler.close`."""
        if self._inner is not None:
            self._inner.close()

    def _open(self) -> TurnSampler:
        """The inner sampler."""
        if self._inner is None:
            self._inner = self._make()
            self.weight_version = self._inner.weight_version
            if self._woken.is_set():  # while it was being made
                self._inner.wake()
        return self._inner

    def _begin(self, row: _Row, ids: Sequence[int]) -> None:
        """Begin a row's next turn after these tokens; nothing changes if the inner sampler refuses them."""
        context = row.context.copy()
        context.update(array("q", ids))
        turn = self._memory.get(context.digest())
        lacking = [*row.lacking, *ids]
        if turn is None:
            self._ask(row, lacking)
        else:
            self._known[row.key] = row, turn
            row.lacking = lacking
        row.context, row.waiting = context, False

    def _ask(self, row: _Row, lacking: Sequence[int]) -> None:
        """Have the inner sampler sample a row's next turn, after the tokens that it lacks."""
        if row.inner:
            self._open().extend(row.key, lacking)
        else:
            self._open().start(row.key, lacking, row.seed)
        self._asked.add(row.key)
        row.inner, row.lacking = True, []

    def _recall(self, row: _Row, turn: _Turn) -> TurnSample:
        """End a row's turn with the remembered one."""
        ids = tuple(turn.token_ids)
        row.lacking += ids
        row.context.update(turn.token_ids)
        row.waiting = True
        WORK.add(turns=1, requests=0)  # no tokens: they are those that were sampled, and show how fast
        return TurnSample(row.key, ids, tuple(turn.logprobs), turn.text, turn.finish, self.weight_version)

    def _remember(self, sample: TurnSample) -> TurnSample:
        """End a row's turn with the one that was sampled."""
        row = self._rows[sample.key]
        self._asked.discard(row.key)
        turn = _Turn(array("q", sample.token_ids), array("d", sample.logprobs), sample.text, sample.finish)
        if sample.weight_version == self.weight_version:  # else the old weights sampled its beginning
            self._memory.put(row.context.digest(), turn)
        row.context.update(turn.token_ids)
        row.waiting = True
        return sample

    def _row(self, key: Hashable) -> _Row:
        if key not in self._rows:
            raise ConfigError(f"there is no row {key!r}.")
        return self._rows[key]
