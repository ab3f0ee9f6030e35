"""Rollouts that run ahead of the updates (`rollout.max_staleness`).

Some episodes of a step take much longer than others. While these last ones finish, episodes of later steps use the
free slots. Weights of version v are the weights after v steps. With staleness k, the episodes of step s may begin as
soon as weights of version s - k are sampling, and they continue across the updates in between. So the turns of step s
are sampled by versions s - k to s, never by older ones. For k = 1:

    weights     | version 0         | version 1         | version 2
    step 0      | ================= |                   |
    step 1      |         ......... | ================= |             .... begun early
    step 2      |                   |         ......... | =========   ==== waited for, then trained on

Question, noise and seeds of an episode are the same as without staleness.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from zerosearch_env.engines import SearchEngine
from zerosearch_env.errors import TrainingError
from zerosearch_env.game.episode import Episode

from ..config.train import TrainConfig
from ..config.vllm import parse_sampler
from ..policy.policy import Policy
from ..processes.workers import Workers
from ..sampling.make import share_slots
from ..sampling.protocol import TurnSampler
from .rollout import Rollout, RolloutPool

_log = logging.getLogger(__name__)
_JOIN_S = 30.0
"""Seconds that the end of a run waits for a search in progress in this process."""

Place = tuple[int, int]
"""Position of an episode in its batch: its group, and its number in the group."""
Batch = tuple[int, int]
"""Identifies episodes that are returned together: their 0-based step, and their first group's slot in the step."""


class Entry(NamedTuple):
    """An episode that has not begun."""

    place: Place
    episode: Episode
    seed: int
    """64-bit sampling seed."""


def last_async_step(config: TrainConfig, step: int) -> int:
    """The last step that may begin episodes while `step` is played and trained on (both 0-based).

    No episode begins before a checkpoint that precedes its step: with nothing in progress when the checkpoint is
    written, a run resumed from it takes the same path.
    """
    last, every = min(step + config.rollout.max_staleness, config.steps - 1), config.files.checkpoint_every
    return last if every is None else min(last, (step // every + 1) * every - 1)


class AsyncRollouts:
    """Plays episodes of several steps in the calling thread, while it waits for those of one step.

    Between calls, during the updates, nothing is played. For samplers that share the learner's weights.

    Args:
        make_pool: makes the pool in which episodes are played; called again after `reset`.
        room: maximum episodes played in parallel, at least 1.
    """

    def __init__(self, make_pool: Callable[[], RolloutPool], room: int) -> None:
        self._make_pool = make_pool
        self._room = room
        self._pool: RolloutPool | None = None
        self._waiting: deque[tuple[Batch, Entry]] = deque()
        self._playing: dict[int, tuple[Batch, Entry]] = {}
        self._numbers = 0
        self._missing: dict[Batch, int] = {}
        self._finished: dict[Batch, dict[Place, Rollout]] = {}

    def knows(self, batch: Batch) -> bool:
        """Whether a batch has been added and not yet taken."""
        return batch in self._missing

    def add(self, batch: Batch, entries: Sequence[Entry], *, first: bool = False) -> None:
        """Queue a batch's episodes to begin when there is room: after all others or, with `first`, before them."""
        self._missing[batch], self._finished[batch] = len(entries), {}
        both = [(batch, entry) for entry in entries]
        if first:
            self._waiting.extendleft(reversed(both))
        else:
            self._waiting.extend(both)

    def take(self, batch: Batch) -> dict[Place, Rollout]:
        """Wait until a batch is finished and return its rollouts, once; other batches continue meanwhile.

        Raises:
            TrainingError: if the sampler failed.
        """
        while self._missing[batch]:
            self.advance()
        return self._hand_out(batch)

    def advance(self) -> None:
        """Play one round: begin episodes while there is room, and process the next finished turns or searches.

        Raises:
            TrainingError: if the sampler failed.
        """
        self._end(_play(*self._begin()))

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """A context in which only the caller uses the sampler and may change its weights. Turns continue afterwards."""
        return contextlib.nullcontext()

    def reset(self) -> None:
        """Drop all episodes: those being played, those waiting, and finished ones that were not taken."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None
        for store in (self._waiting, self._playing, self._missing, self._finished):
            store.clear()

    def close(self) -> None:
        """Drop all episodes permanently. Calling it twice is allowed."""
        self.reset()

    def _begin(self) -> tuple[RolloutPool, list[tuple[int, Episode, int]]]:
        """The pool, and the episodes that enter it now."""
        if self._pool is None:
            self._pool = self._make_pool()
        entering: list[tuple[int, Episode, int]] = []
        while self._waiting and self._pool.active + len(entering) < self._room:
            batch, entry = self._waiting.popleft()
            self._playing[self._numbers] = batch, entry
            entering.append((self._numbers, entry.episode, entry.seed))
            self._numbers += 1
        return self._pool, entering

    def _end(self, over: Sequence[tuple[int, Rollout]]) -> None:
        for number, rollout in over:
            batch, entry = self._playing.pop(number)
            self._finished[batch][entry.place] = rollout
            self._missing[batch] -= 1

    def _hand_out(self, batch: Batch) -> dict[Place, Rollout]:
        del self._missing[batch]
        return self._finished.pop(batch)


def _play(pool: RolloutPool, entering: Sequence[tuple[int, Episode, int]]) -> list[tuple[int, Rollout]]:
    over = pool.enter(entering)
    return over + pool.advance() if pool.active else over


class ThreadedRollouts(AsyncRollouts):
    """Plays in a separate thread, also while the learner updates. For samplers on servers.

    Only the thread uses the sampler, the desk and the pool, except inside `paused`, where it waits. The caller's
    thread can then send the weights, together with the learner's other processes. An error in the thread is raised by
    the next `take` or `paused`. Callers must not call `advance`.

    Args:
        make_pool: see `AsyncRollouts`.
        room: see `AsyncRollouts`.
    """

    def __init__(self, make_pool: Callable[[], RolloutPool], room: int) -> None:
        super().__init__(make_pool, room)
        self._state = threading.Condition()  # guards all state here except the inside of the pool
        self._thread: threading.Thread | None = None
        self._busy = False  # the thread is inside the pool
        self._held = False
        self._closing = False
        self._error: BaseException | None = None

    def add(self, batch: Batch, entries: Sequence[Entry], *, first: bool = False) -> None:
        """See `AsyncRollouts.add`."""
        with self._state:
            super().add(batch, entries, first=first)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="zerosearch-rollouts", daemon=True)
                self._thread.start()
            self._state.notify_all()

    def take(self, batch: Batch) -> dict[Place, Rollout]:
        """See `AsyncRollouts.take`.

        Raises:
            TrainingError: if the sampler failed, or this object is closed.
            Exception: any other exception raised in the thread.
        """
        with self._state:
            self._state.wait_for(lambda: self._failed() or not self._missing[batch])
            self._raise_failure()
            return self._hand_out(batch)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """See `AsyncRollouts.paused`.

        Raises:
            TrainingError: if the sampler failed.
            Exception: any other exception raised in the thread.
        """
        try:
            with self._state:
                self._held = True
                self._wake()
                self._state.wait_for(lambda: not self._busy)
                self._raise_failure()
            yield
        finally:
            with self._state:
                self._held = False
                self._state.notify_all()

    def reset(self) -> None:
        """See `AsyncRollouts.reset`."""
        with self.paused():
            super().reset()

    def close(self) -> None:
        """See `AsyncRollouts.close`; the thread ends."""
        with self._state:
            self._closing = True
            self._wake()
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            if self._thread.is_alive():
                _log.warning("a search in progress has not finished in %.0f s; it is abandoned", _JOIN_S)
                return
        super().reset()

    def _run(self) -> None:
        try:
            while True:
                with self._state:
                    self._state.wait_for(lambda: self._closing or (not self._held and self._has_work()))
                    if self._closing:
                        return
                    self._busy = True
                    pool, entering = self._begin()
                over = _play(pool, entering)
                with self._state:
                    self._end(over)
                    self._busy = False
                    self._state.notify_all()
        except BaseException as error:  # raised again in the thread that calls `take` or `paused`
            with self._state:
                self._error, self._busy = error, False
                self._state.notify_all()

    def _has_work(self) -> bool:
        return bool(self._waiting) or (self._pool is not None and self._pool.active > 0)

    def _wake(self) -> None:
        if self._busy and self._pool is not None:
            self._pool.wake()

    def _failed(self) -> bool:
        return self._error is not None or self._closing

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closing:
            raise TrainingError("the rollouts that run ahead were closed.")


def make_async_rollouts(
    config: TrainConfig, sampler: TurnSampler, engine: SearchEngine, policy: Policy, workers: Workers
) -> AsyncRollouts | None:
    """Make this worker's `AsyncRollouts`, the only user of the sampler; None with `max_staleness = 0`."""
    if not config.rollout.max_staleness:
        return None
    kind = ThreadedRollouts if parse_sampler(config.rollout.sampler).urls else AsyncRollouts

    def make_pool() -> RolloutPool:
        return RolloutPool(engine, sampler, policy.tokenizer, format=policy.card.format)

    return kind(make_pool, share_slots(config, workers))
