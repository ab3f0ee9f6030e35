"""Episodes whose turns and searches only take time: the workload of `rollouts`, in simulated time and with sleeps."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zerosearch_env.engines import ConstantEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question, SearchRequest, SearchResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zerosearch_agents.rollouts.searches import Answer, SearchKey
    from zerosearch_agents.sampling.protocol import TurnSample

EPISODES, LONGEST, SERVERS = 64, 5, 16
SIGMA = 0.8
RULES = make_rules(prompt_template="{question}", max_turns=LONGEST, top_k=1)
DOCUMENTS = ConstantEngine()


@dataclass(frozen=True)
class Workload:
    """Latencies in seconds."""

    turns: NDArray[np.int64]
    """Turns of each episode, shape `(episodes,)`."""
    generate: NDArray[np.float64]
    """Shape `(episodes, LONGEST)`."""
    search: NDArray[np.float64]
    """The same shape; the last turn of an episode does not search."""

    def episodes(self) -> list[Episode]:
        """Make the episodes; the question of each is its number."""
        return [Episode(Question(str(i), str(i), ("a",)), RULES, seed=i) for i in range(len(self.turns))]


def make_workload(seed: int, median_s: float) -> Workload:
    """Draw the published workload, in its order of draws."""
    rng = np.random.default_rng(seed)
    turns = rng.integers(1, LONGEST + 1, EPISODES)
    center = np.log(median_s)
    generate = np.exp(rng.normal(center, SIGMA, (EPISODES, LONGEST)))
    return Workload(turns, generate, np.exp(rng.normal(center, SIGMA, (EPISODES, LONGEST))))


def join(loads: Sequence[Workload]) -> Workload:
    """Concatenate batches."""
    parts = zip(*((load.turns, load.generate, load.search) for load in loads), strict=True)
    return Workload(*(np.concatenate(part) for part in parts))


class _Turns:
    """The turns of a sampler that only waits: searches, and an answer in the last turn of an episode."""

    context_tokens = 10**6
    weight_version = 0

    def __init__(self, load: Workload) -> None:
        self._load = load
        self._done: dict[Hashable, int] = {}

    def latency(self, key: Hashable) -> float:
        """Return the seconds of the turn that begins now."""
        turn = self._done.setdefault(key, 0)
        return float(self._load.generate[int(str(key)), turn])

    def sample(self, key: Hashable) -> TurnSample:
        """Return the turn that ends now."""
        from zerosearch_agents.sampling.protocol import TurnSample

        turn = self._done[key]
        self._done[key] = turn + 1
        last = turn + 1 == self._load.turns[int(str(key))]
        text = "<answer>a</answer>" if last else f"<search>{key} {turn}</search>"
        return TurnSample(key, (1,), (-1.0,), text, "stop")

    def finish(self, key: Hashable) -> None:
        """Nothing to free."""

    def greedy(self) -> AbstractContextManager[None]:
        """Nothing is drawn."""
        return nullcontext()

    def refresh(self, version: int | None = None) -> None:
        """No weights."""

    def before_training(self) -> None:
        """No memory."""

    def close(self) -> None:
        """Nothing to release."""


class SimulatedTime(_Turns):
    """Sampler and desk in one, on a clock that jumps from event to event."""

    def __init__(self, load: Workload) -> None:
        super().__init__(load)
        self.now = 0.0
        self._events: list[tuple[float, int, str, Any]] = []
        self._count = 0
        self._busy = 0
        self._queue: deque[tuple[SearchKey, float]] = deque()
        self._answers: list[SearchKey] = []
        self._updating = False

    def _at(self, after: float, what: str, key: Any) -> None:
        heapq.heappush(self._events, (self.now + after, self._count, what, key))
        self._count += 1

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """See `TurnSampler.start`."""
        self._at(self.latency(key), "turn", key)

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """See `TurnSampler.extend`."""
        self._at(self.latency(key), "turn", key)

    def wake(self) -> None:
        """Searches come in the same thread."""

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`."""
        return self._next()

    def update(self, seconds: float, meanwhile: Callable[[], object]) -> None:
        """Advance the time by an update, calling `meanwhile` repeatedly to move rollouts to their next event."""
        self._at(seconds, "update", None)
        self._updating = True
        while self._updating:
            meanwhile()
            if self._updating and len(self._events) == 1 and not self._answers:
                self._next()  # no rollout is active: only the update continues

    def _next(self) -> list[TurnSample]:
        self.now, _, what, key = heapq.heappop(self._events)
        if what == "turn":
            return [self.sample(key)]
        if what == "search":
            self._answer(key)
        else:
            self._updating = False
        return []

    def submit(self, key: SearchKey, request: SearchRequest) -> None:
        """See `SearchDesk.submit`."""
        self._queue.append((key, self._latency(request)))
        self._fill()

    def collect(self, *, wait: bool) -> list[Answer]:
        """See `SearchDesk.collect`."""
        if wait and not self._answers:
            self._next()
        keys, self._answers = self._answers, []
        return [(key, _result()) for key in keys]

    def _latency(self, request: SearchRequest) -> float:
        return _search_latency(self._load, request)

    def _answer(self, key: SearchKey) -> None:
        self._busy -= 1
        self._answers.append(key)
        self._fill()

    def _fill(self) -> None:
        while self._queue and self._busy < SERVERS:
            key, latency = self._queue.popleft()
            self._busy += 1
            self._at(latency, "search", key)


class RealTime(_Turns):
    """A sampler whose turns take real time."""

    def __init__(self, load: Workload) -> None:
        super().__init__(load)
        self._due: list[tuple[float, int]] = []
        self._woken = threading.Event()

    def start(self, key: Hashable, ids: Sequence[int], seed: int) -> None:
        """See `TurnSampler.start`."""
        heapq.heappush(self._due, (time.perf_counter() + self.latency(key), int(str(key))))

    def extend(self, key: Hashable, ids: Sequence[int]) -> None:
        """See `TurnSampler.extend`."""
        self.start(key, ids, 0)

    def wake(self) -> None:
        """See `TurnSampler.wake`."""
        self._woken.set()

    def run(self, minimum: int = 1) -> list[TurnSample]:
        """See `TurnSampler.run`."""
        self._woken.wait(max(self._due[0][0] - time.perf_counter(), 0.0))
        self._woken.clear()
        finished = []
        while self._due and self._due[0][0] <= time.perf_counter():
            finished.append(self.sample(heapq.heappop(self._due)[1]))
        return finished


class SleepingEngine(ConstantEngine):
    """Searches that take real time, `SERVERS` of them at once."""

    waits = True

    def __init__(self, load: Workload) -> None:
        super().__init__()
        self._load = load
        self._servers = asyncio.Semaphore(SERVERS)

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Return the same documents for every search, after its latency."""
        async with self._servers:
            await asyncio.sleep(_search_latency(self._load, request))
        return _result()


def _search_latency(load: Workload, request: SearchRequest) -> float:
    episode, turn = map(int, request.query.split())
    return float(load.search[episode, turn])


def _result() -> SearchResult:
    return DOCUMENTS.search([SearchRequest("", "", ("a",), noisy=False, top_k=1, seed=0)])[0]


class Characters:
    """As much of a tokenizer as rollouts need."""

    def __call__(self, texts: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        """Return one token per character, at least one per string."""
        if isinstance(texts, str):
            return {"input_ids": [1] * max(len(texts), 1)}
        return {"input_ids": [[1] * max(len(text), 1) for text in texts]}
