"""The batcher: who shares a call, who waits, and what happens to callers that leave."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.engines import ConstantEngine, batching
from zerosearch_env.engines.batching import Batcher
from zerosearch_env.engines.concurrent_searches import ConcurrentSearches
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.types import Document, SearchRequest, SearchResult


def ask(query: str) -> SearchRequest:
    return SearchRequest(query, "", (), noisy=False, top_k=1, seed=0)


class Held(ConstantEngine):
    """Returns the query as a document; its calls wait for `release`, and are recorded."""

    def __init__(self, *, held: bool = False, waits: bool = False) -> None:
        super().__init__()
        self.waits = waits
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self.at_once = self.most_at_once = 0
        self.called = threading.Semaphore(0)
        self.release = threading.Event()
        if not held:
            self.release.set()
        self._counts = threading.Lock()

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        with self._counts:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.calls.append([request.query for request in requests])
            self.threads.add(threading.get_ident())
        self.called.release()
        assert self.release.wait(20)
        with self._counts:
            self.at_once -= 1
        if "boom" in self.calls[-1]:
            raise EngineError("down", attempts=3)
        return [SearchResult((Document("", request.query),)) for request in requests]


def text(result: SearchResult) -> str:
    return result.documents[0].text


def test_searches_queue_up_while_the_engine_is_busy() -> None:
    engine = Held(held=True)
    batcher = Batcher(engine)
    first = batcher.submit(ask("a"))
    engine.called.acquire()
    others = [batcher.submit(ask(query)) for query in "bcd"]
    assert batcher.waiting == 3
    engine.release.set()
    assert [text(future.result(20)) for future in (first, *others)] == ["a", "b", "c", "d"]
    assert engine.calls == [["a"], ["b", "c", "d"]]
    assert engine.most_at_once == 1
    assert batcher.waiting == 0


def test_a_lone_caller_never_waits_and_company_is_gathered() -> None:
    """The times are too long for a test that waited by mistake."""
    engine = Held(held=True)
    batcher = Batcher(engine, max_wait_s=60.0)
    alone = batcher.submit(ask("a"))
    engine.called.acquire()
    pair = [batcher.submit(ask(query)) for query in "bc"]
    engine.release.set()
    for future in (alone, *pair):
        future.result(20)
    while not batcher._idle:
        pass
    again = batcher.submit(ask("d"))  # the last batch had two callers: it waits for the other one
    assert not again.done()
    assert engine.calls == [["a"], ["b", "c"]]
    assert text(batcher.submit(ask("e")).result(20)) == "e"
    assert text(again.result(20)) == "d"
    assert engine.calls[2:] == [["d", "e"]]


def test_many_searches_of_one_caller_are_no_company() -> None:
    engine = Held()
    batcher = Batcher(engine, max_wait_s=60.0)

    async def main() -> None:
        for turn in range(3):
            await asyncio.wait_for(batcher.asearch([ask(f"{turn} {n}") for n in range(5)]), 20)

    asyncio.run(main())
    assert [len(call) for call in engine.calls] == [5, 5, 5]


class Quick(Held):
    """Calls of at most `most` searches are quick, unless one of them is called "slow"."""

    most = 3

    def is_quick(self, requests: Sequence[SearchRequest]) -> bool:
        return len(requests) <= self.most and "slow" not in {request.query for request in requests}


def test_quick_searches_share_calls_on_the_event_loop_which_works_in_between() -> None:
    engine = Quick()
    batcher = Batcher(engine)
    seen: list[int] = []

    async def main() -> None:
        tasks = [asyncio.create_task(batcher.asearch([ask(f"q{n}")])) for n in range(7)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            seen.append(sum(task.done() for task in tasks))
        assert [text(task.result()[0]) for task in tasks] == [f"q{n}" for n in range(7)]

    asyncio.run(main())
    assert engine.threads == {threading.get_ident()}
    # Half as many until they are quick: 7, 3; 4, 2; 2; 1 (the rest is looked at again).
    assert [len(call) for call in engine.calls] == [3, 2, 2]
    assert {3, 5} <= set(seen)
    assert (batcher.waiting, batcher.busy_since) == (0, None)


def test_a_search_that_is_not_quick_takes_a_thread_and_holds_up_nobody_on_the_loop() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class HeldWhenSlow(Quick):
        def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
            if requests[0].query == "slow":
                begun.set()
                assert go_on.wait(20)
            return super().search(requests)

    engine = HeldWhenSlow()
    batcher = Batcher(engine)

    async def main() -> None:
        slow = asyncio.create_task(batcher.asearch([ask("slow")]))
        await asyncio.to_thread(begun.wait, 20)
        assert text((await batcher.asearch([ask("a")]))[0]) == "a"
        go_on.set()
        assert text((await slow)[0]) == "slow"

    asyncio.run(main())
    assert engine.calls == [["a"], ["slow"]]
    assert len(engine.threads) == 2
    batcher.close()


def test_quick_searches_that_fail_and_an_is_quick_that_raises() -> None:
    engine = Quick()
    batcher = Batcher(engine)
    with pytest.raises(EngineError, match="down"):
        asyncio.run(batcher.asearch([ask("boom")]))
    assert engine.threads == {threading.get_ident()}
    engine.is_quick = lambda requests: 1 / 0  # type: ignore[method-assign, assignment]
    assert text(asyncio.run(batcher.asearch([ask("a")]))[0]) == "a"
    assert len(engine.threads) == 2
    batcher.close()


def test_quick_searches_of_an_event_loop_that_was_closed_do_not_keep_others_waiting() -> None:
    engine = Quick()
    batcher = Batcher(engine)

    async def leave() -> None:
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        await batcher.asearch([ask("lost")])

    loop = asyncio.new_event_loop()
    task = loop.create_task(leave())
    loop.call_soon(loop.stop)
    loop.run_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    assert text(asyncio.run(batcher.asearch([ask("a")]))[0]) == "a"


def test_waiting_ends() -> None:
    engine = Held(held=True)
    batcher = Batcher(engine, max_wait_s=0.01)
    futures = [batcher.submit(ask(query)) for query in "abc"]
    engine.release.set()
    for future in futures:
        future.result(20)
    assert text(batcher.submit(ask("d")).result(20)) == "d"


@pytest.mark.parametrize(("waits", "max_calls", "at_once"), [(False, None, 1), (True, None, 16), (False, 3, 3)])
def test_an_engine_that_waits_is_called_concurrently(waits: bool, max_calls: int | None, at_once: int) -> None:
    engine = Held(held=True, waits=waits)
    batcher = Batcher(engine, max_batch=1, max_calls=max_calls)
    futures = [batcher.submit(ask(f"q{n}")) for n in range(20)]
    for _ in range(at_once):
        engine.called.acquire()
    assert batcher.busy_since is not None
    engine.release.set()
    assert [text(future.result(20)) for future in futures] == [f"q{n}" for n in range(20)]
    assert engine.most_at_once == at_once


@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    max_batch=st.integers(1, 7),
    max_calls=st.sampled_from([None, 1, 3]),
    threads=st.integers(0, 5),
)
def test_everyone_gets_their_own_result(counts: list[int], max_batch: int, max_calls: int | None, threads: int) -> None:
    engine = Held()
    batcher = Batcher(engine, max_batch=max_batch, max_wait_s=0.0005, max_calls=max_calls)

    async def main() -> list[list[SearchResult]]:
        return await asyncio.gather(
            *(batcher.asearch([ask(f"{caller} {n}") for n in range(count)]) for caller, count in enumerate(counts))
        )

    futures = [batcher.submit(ask(f"thread {n}")) for n in range(threads)]
    for caller, (count, results) in enumerate(zip(counts, asyncio.run(main()), strict=True)):
        assert list(map(text, results)) == [f"{caller} {n}" for n in range(count)]
    assert [text(future.result(20)) for future in futures] == [f"thread {n}" for n in range(threads)]
    assert max(map(len, engine.calls), default=0) <= max_batch
    assert sum(map(len, engine.calls)) == sum(counts) + threads
    assert (batcher.waiting, batcher._callers) == (0, 0)


def test_two_event_loops_share_a_call() -> None:
    engine = Held(held=True)
    batcher = Batcher(engine)
    first = batcher.submit(ask("a"))
    engine.called.acquire()

    def loop(query: str) -> str:
        return text(asyncio.run(batcher.asearch([ask(query)]))[0])

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(loop, query) for query in "bc"]
        while batcher.waiting < 2:
            pass
        engine.release.set()
        assert [future.result(20) for future in futures] == ["b", "c"]
    first.result(20)
    assert sorted(engine.calls[1]) == ["b", "c"]


def test_who_has_left_is_not_searched_for() -> None:
    engine = Held(held=True)
    batcher = Batcher(engine)
    first = batcher.submit(ask("a"))
    engine.called.acquire()

    async def abandoned() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.asearch([ask("gone")]), 0.01)

    asyncio.run(abandoned())
    stays = batcher.submit(ask("stays"))
    engine.release.set()
    assert text(stays.result(20)) == "stays"
    first.result(20)
    assert engine.calls == [["a"], ["stays"]]


def test_the_result_for_a_loop_that_has_ended_disturbs_no_one() -> None:
    engine = Held(held=True)
    batcher = Batcher(engine)

    async def leave_during_the_call() -> None:
        task = asyncio.ensure_future(batcher.asearch([ask("a")]))
        await asyncio.to_thread(engine.called.acquire)
        task.cancel()

    asyncio.run(leave_during_the_call())
    engine.release.set()
    assert text(batcher.submit(ask("b")).result(20)) == "b"


def test_calls_are_reported_and_errors_reach_their_callers() -> None:
    reports: list[tuple[int, list[type]]] = []
    engine = Held()
    batcher = Batcher(engine, on_call=lambda size, seconds, outcomes: reports.append((size, list(map(type, outcomes)))))
    with pytest.raises(EngineError, match="down"):
        batcher.submit(ask("boom")).result(20)
    batcher.submit(ask("fine")).result(20)
    assert reports == [(1, [EngineError]), (1, [SearchResult])]


def test_threads_end_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Held()
    batcher = Batcher(engine)
    batcher.submit(ask("a")).result(20)
    assert batcher._threads == 1
    batcher.close()
    while batcher._threads:
        pass
    assert text(batcher.submit(ask("b")).result(20)) == "b"  # whether the engine is closed is its own affair
    monkeypatch.setattr(batching, "_IDLE_S", 0.001)
    batcher = Batcher(engine)
    batcher.submit(ask("c")).result(20)
    while batcher._threads:
        pass
    reference = weakref.ref(batcher)
    del batcher
    gc.collect()
    assert reference() is None


def test_an_engine_and_its_batcher_can_be_copied() -> None:
    engine = pickle.loads(pickle.dumps(ConstantEngine()))
    assert len(asyncio.run(engine.asearch(ask("a"))).documents) == 1
    assert engine._batcher._engine is engine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_its_own_threads() -> None:
    batcher = Batcher(Held())
    batcher.submit(ask("a")).result(20)
    child = os.fork()
    if child == 0:
        os._exit(0 if text(batcher.submit(ask("b")).result(10)) == "b" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_calls": 0}, {"max_wait_s": -1.0}])
def test_unusable_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Batcher(Held(), **options)


def in_threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_concurrent_searches_of_threads() -> None:
    """In batches with an engine in this process, at the same time with one that waits."""
    engine = Held()
    searches = ConcurrentSearches(engine)
    assert [text(result) for result in in_threads(8, lambda n: searches.search([ask(f"q{n}")])[0])] == [
        f"q{n}" for n in range(8)
    ]
    assert engine.most_at_once == 1
    searches.close()

    class Waiting(Held):
        async def asearch(self, request: SearchRequest) -> SearchResult:
            self.calls.append([request.query])
            while len(self.calls) < 8:
                await asyncio.sleep(0.001)
            return SearchResult((Document("", request.query),))

    searches = ConcurrentSearches(Waiting(waits=True))
    results = in_threads(8, lambda n: searches.search([ask(f"q{n}")])[0])
    assert [text(result) for result in results] == [f"q{n}" for n in range(8)]
    searches.close()


def test_quick_searches_of_threads_need_no_other_thread() -> None:
    engine = Quick()
    searches = ConcurrentSearches(engine)
    assert text(searches.search([ask("a")])[0]) == "a"
    assert searches.search([ask("boom")])[0].failure == "down"
    assert engine.threads == {threading.get_ident()}
    assert text(searches.search([ask("slow")])[0]) == "slow"
    assert len(engine.threads) == 2
    searches.close()


@pytest.mark.parametrize("waits", [False, True])
def test_a_failure_of_the_engine_is_a_failed_result(waits: bool) -> None:
    searches = ConcurrentSearches(Held(waits=waits))
    for result in (searches.search([ask("boom")])[0], asyncio.run(searches.asearch(ask("boom")))):
        assert (result.failure, result.attempts, result.documents) == ("down", 3, ())
    searches.close()
