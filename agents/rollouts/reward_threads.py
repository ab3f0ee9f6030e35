"""Turns taken in threads, for rewards that wait for a server (`Rules.waits`)."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from zerosearch_env.game.episode import Episode, Outcome
from zerosearch_env.game.together import MAX_WAITING


class RewardThreads:
    """Advances episodes in threads. All methods are called from one thread, except `wake`.

    Args:
        on_ready: called from another thread when an outcome is ready.
    """

    def __init__(self, on_ready: Callable[[], object]) -> None:
        self._threads = ThreadPoolExecutor(MAX_WAITING, "zerosearch-reward")
        self._on_ready = on_ready
        self._ready: queue.SimpleQueue[tuple[int, Future[Outcome]] | None] = queue.SimpleQueue()
        self.pending = 0
        """Number of turns that have not been collected."""

    def submit(self, key: int, episode: Episode, text: str) -> None:
        """Take a turn of an episode; its outcome is collected with `key`."""

        def deliver(done: Future[Outcome]) -> None:
            self._ready.put((key, done))
            self._on_ready()

        self.pending += 1
        self._threads.submit(episode.advance, text).add_done_callback(deliver)

    def collect(self, *, wait: bool) -> list[tuple[int, Outcome]]:
        """Return the outcomes that are ready; with `wait`, at least one, or none after `wake`.

        Raises:
            ConfigError: a reward failed.
        """
        outcomes: list[tuple[int, Outcome]] = []
        while self.pending:
            try:
                ready = self._ready.get(block=wait and not outcomes)
            except queue.Empty:
                break
            if ready is None:
                wait = False
                continue
            self.pending -= 1
            key, future = ready
            outcomes.append((key, future.result()))
        return outcomes

    def wake(self) -> None:
        """Make a waiting `collect` (or the next one) return soon. Callable from any thread."""
        self._ready.put(None)

    def close(self) -> None:
        """Abandon the turns that have not been collected."""
        self._threads.shutdown(wait=False, cancel_futures=True)
