"""Worker processes that play episodes: several cores, the same results.

A worker receives the player's options, the engine and the initial state of each episode. It plays, and returns the
actions and the search results. The parent replays these turns on its own episodes: rules are applied and scores are
computed in one place, and any difference in the replay is an error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, MutableSequence, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from zerosearch_env.errors import AgentError, ConfigError, ZeroSearchError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rewards import exact_match
from zerosearch_env.game.together import MAX_WAITING
from zerosearch_env.progress import WORK, WorkCounts
from zerosearch_env.types import Step, StopReason, Turn

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine


class PoolOptions(Protocol):
    """Options of a player that the pool can run: hashable, picklable, and with the directory of its policy."""

    @property
    def path(self) -> str:
        """Directory of the policy; a worker reloads it when it changes."""
        ...


class PoolPlayer(Protocol):
    """A player that the pool can run: it is made from its options and plays episodes in the current process."""

    def __init__(self, options: Any) -> None: ...

    def play_here(
        self, episodes: Sequence[Episode], engine: SearchEngine, on_done: Callable[[int], None] | None = None
    ) -> None:
        """Play every episode to its end in this process."""
        ...


class WorkerPool:
    """A few processes that play with policies. They start at first use and end with `close` or with this process.

    The processes use the "spawn" start method, so a script that uses this needs the usual
    `if __name__ == "__main__":` guard.

    Args:
        count: number of processes, at least 1.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ConfigError(f"workers: expected at least 1, got {count}")
        self.count = count
        self._connections: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._engine: SearchEngine | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes now, so that start-up overlaps with other work."""
        if self._processes:
            return
        context = multiprocessing.get_context("spawn")
        before = {name: os.environ.get(name) for name in _ENVIRONMENT}
        os.environ.update(_ENVIRONMENT)  # read by OpenMP when the child loads torch
        try:
            for _ in range(self.count):
                ours, theirs = context.Pipe()
                counts = RawArray("q", len(WorkCounts._fields))
                WORK.include(counts)
                process = context.Process(target=_serve, args=(theirs, counts), daemon=True, name="zerosearch-player")
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(1.0)  # an idle worker exits on its own and releases its libraries' resources
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._connections, self._processes, self._engine = [], [], None

    def play(
        self,
        player: type[PoolPlayer],
        options: PoolOptions,
        episodes: Sequence[Episode],
        engine: SearchEngine,
        on_done: Callable[[int], None] | None = None,
    ) -> None:
        """Play new episodes to their end; the result is the same as if they had been played in this process.

        Args:
            player: class of the player; each worker calls `player(options)`. It must be importable.
            options: the player's options; pickled and sent to each worker.
            episodes: episodes that have not begun.
            engine: the search engine; sent to each worker once.
            on_done: called with the position in `episodes` of each episode as soon as it ends.

        Raises:
            ConfigError: if the engine or the rules cannot be sent to another process.
            AgentError: if a worker died.
            ZeroSearchError: if a worker raised one.
        """
        shares = (range(number, len(episodes), self.count) for number in range(self.count))
        jobs = [(player, options, [(i, *_start(episodes[i])) for i in share]) for share in shares]
        packed_jobs = [_packed(("play", job), "the episodes' rules") for job in jobs]
        packed_engine = None if engine is self._engine else _packed(("engine", engine), "the search engine")
        self.start()
        try:
            for connection, job in zip(self._connections, packed_jobs, strict=True):
                if packed_engine is not None:
                    connection.send_bytes(packed_engine)
                connection.send_bytes(job)
            self._engine = engine
            self._collect(episodes, on_done)
        except BaseException:
            # A worker that is still busy would send its results during the next job.
            self.close()
            raise

    def _collect(self, episodes: Sequence[Episode], on_done: Callable[[int], None] | None) -> None:
        busy = list(self._connections)
        with _Replays(episodes, on_done) as replays:
            self._receive(busy, replays)

    def _receive(self, busy: list[Connection], replays: _Replays) -> None:
        while busy:
            for ready in wait(busy):
                connection = cast("Connection", ready)
                try:
                    what, value = pickle.loads(connection.recv_bytes())
                except EOFError as cause:
                    process = self._processes[self._connections.index(connection)]
                    process.join(5)
                    raise AgentError(f"a worker process died (exit code {process.exitcode})") from cause
                if what == "episode":
                    replays.add(*value)
                elif what == "done":
                    busy.remove(connection)
                elif isinstance(value, ZeroSearchError):
                    raise value
                else:
                    raise AgentError(f"a worker process failed:\n{value}")


class _Replays:
    """Replays the turns that workers have played; in threads if rewards wait for a server (`Rules.waits`).

    Args:
        episodes: the parent's episodes.
        on_done: called with the position of each episode that has been replayed, by the thread that uses this object.
    """

    def __init__(self, episodes: Sequence[Episode], on_done: Callable[[int], None] | None) -> None:
        self._episodes = episodes
        self._on_done = on_done
        self._threads: ThreadPoolExecutor | None = None
        self._running: dict[Future[None], int] = {}

    def add(self, index: int, turns: Sequence[Turn]) -> None:
        """Replay the turns of the episode at a position."""
        episode = self._episodes[index]
        if not episode.rules.waits:
            replay(episode, turns)
            self._report(index)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(MAX_WAITING, "zerosearch-reward")
        self._running[self._threads.submit(replay, episode, turns)] = index
        for done in [future for future in self._running if future.done()]:
            self._finish(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Report the replays that are still running, unless there was an error."""
        try:
            for done in as_completed(list(self._running)) if kind is None else ():
                self._finish(done)
        finally:
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    def _finish(self, done: Future[None]) -> None:
        index = self._running.pop(done)
        done.result()
        self._report(index)

    def _report(self, index: int) -> None:
        if self._on_done is not None:
            self._on_done(index)


def default_workers(device: str = "cpu") -> int:
    """Default number of processes: the cores that this process may use, at most 2; 1 on a GPU."""
    if device != "cpu":
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(2, len(affinity(0)) if affinity else os.cpu_count() or 1))


def replay(episode: Episode, turns: Sequence[Turn]) -> None:
    """Repeat turns that were played elsewhere on an episode that has not begun.

    Raises:
        RuntimeError: if a step differs from the recorded one.
    """
    for turn in turns:
        step = turn.step
        if step.stop_reason in (StopReason.CONTEXT_LIMIT, StopReason.AGENT_ERROR):
            outcome: Any = episode.stop(step.stop_reason, turn.action_text, step.error)
        else:
            outcome = episode.advance(turn.action_text)
            if not isinstance(outcome, Step):
                outcome = episode.observe(step.results)
        # A worker computes no reward, so only the replay finds out that a reward has no value.
        unjudged = step.done and outcome.stop_reason is StopReason.ENGINE_ERROR
        same_end = unjudged or outcome.stop_reason == step.stop_reason
        if not same_end or (outcome.action, outcome.noisy) != (step.action, step.noisy):
            raise RuntimeError(f"question {episode.question.id!r}: replayed to {outcome}, recorded was {step}")


_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def _start(episode: Episode) -> tuple[Any, ...]:
    """The arguments that recreate the episode. The parent computes reward and scores, so these are not sent."""
    rules = replace(episode.rules, reward=exact_match, scores=())
    return episode.question, rules, episode.noise_level, episode.noise_kinds, episode.seed


def _packed(value: Any, what: str) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as cause:
        raise ConfigError(f"{what} cannot be sent to worker processes ({cause}); use workers=1") from cause


def _serve(connection: Connection, counts: MutableSequence[int]) -> None:
    """The loop of a worker process. What it plays is counted in `counts` too, while it plays."""
    WORK.count_into(counts)
    # Ctrl-C, and SIGTERM from a job scheduler, also reach the parent, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine: Any = None
    players: dict[Any, Any] = {}
    while True:
        try:
            what, value = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            if what == "engine":
                engine = value
                continue
            player, options, starts = value
            key = (player, options, _stamp(options.path))
            if key not in players:
                players.clear()
                players[key] = player(options)
            positions = [position for position, *_ in starts]
            episodes = [
                Episode(question, rules, noise_level=level, noise_kinds=kinds, seed=seed)
                for _, question, rules, level, kinds, seed in starts
            ]

            def send(n: int, positions: list[int] = positions, episodes: list[Episode] = episodes) -> None:
                connection.send_bytes(pickle.dumps(("episode", (positions[n], tuple(episodes[n].turns)))))

            players[key].play_here(episodes, engine, send)
            connection.send_bytes(pickle.dumps(("done", None)))
        except BrokenPipeError:
            return  # the parent closed the pipe and needs no more results
        except Exception as error:
            problem = error if isinstance(error, ZeroSearchError) else traceback.format_exc()
            with contextlib.suppress(BrokenPipeError):  # another worker had failed first
                connection.send_bytes(pickle.dumps(("error", problem)))


def _stamp(path: str) -> int:
    """A number that changes when a policy is saved again under the same name."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
