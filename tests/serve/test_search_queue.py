"""The queue of a server: one bad request does not take the others down, and too many are refused. No server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zerosearch_env.engines.run import search_each
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.retrieve_api.codec import RequestError
from zerosearch_env.serve.metrics import Histogram, Metrics
from zerosearch_env.serve.search_queue import SearchQueue
from zerosearch_env.types import SearchRequest, SearchResult


def ask(query: str) -> SearchRequest:
    return SearchRequest(query, "", (), noisy=False, top_k=1, seed=0)


def run(engine: Any, body: Callable[[SearchQueue], Awaitable[Any]], **options: Any) -> tuple[Any, Metrics]:
    async def main() -> tuple[Any, Metrics]:
        metrics = Metrics()
        queue = SearchQueue(engine, metrics, **options)
        try:
            return await asyncio.wait_for(body(queue), 20), metrics
        finally:
            assert await queue.close(5) is None

    return asyncio.run(main())


def test_concurrent_callers_share_calls(recording: Any) -> None:
    engine = recording(seconds=0.02)

    async def body(queue: SearchQueue) -> list[list[SearchResult]]:
        return await asyncio.gather(*(queue.search([ask(f"q{n}"), ask(f"r{n}")]) for n in range(50)))

    results, metrics = run(engine, body)
    for number, (first, second) in enumerate(results):
        assert first.documents[0].text == f"about q{number}"
        assert second.documents[0].text == f"about r{number}"
    assert [len(call) for call in engine.calls] == [100]
    assert (metrics.batch_sizes.count, metrics.batch_sizes.mean) == (1, 100)
    assert engine.closed.is_set()


def test_max_batch_and_one_call_at_a_time(recording: Any) -> None:
    engine = recording(seconds=0.002)
    _, metrics = run(engine, lambda queue: queue.search([ask(f"q{n}") for n in range(25)]), max_batch=10)
    assert sorted(len(call) for call in engine.calls) == [5, 10, 10]
    assert metrics.waiting() == 0


def test_a_bad_request_stands_alone(recording: Any) -> None:
    engine = recording()
    outcomes = search_each(engine, [ask(query) for query in ("a", "b", "refuse", "c", "boom", "d")])
    assert [type(outcome) for outcome in outcomes] == [
        SearchResult,
        SearchResult,
        ConfigError,
        SearchResult,
        EngineError,
        SearchResult,
    ]
    assert str(outcomes[4]) == "RecordingEngine raised KeyError: 'a bug of the engine'"


def test_a_failure_of_the_engine_is_everybodys(recording: Any) -> None:
    engine = recording()
    outcomes = search_each(engine, [ask("a"), ask("down"), ask("b")])
    assert [str(outcome) for outcome in outcomes] == ["the simulator cannot be reached"] * 3
    assert len(engine.calls) == 1
    assert "returned 0 results for 2 requests" in str(search_each(engine, [ask("a"), ask("short")])[0])


def test_too_many_waiting(recording: Any) -> None:
    engine = recording()
    engine.released.clear()

    async def body(queue: SearchQueue) -> None:
        busy = asyncio.create_task(queue.search([ask("a")]))
        while not engine.calls:
            await asyncio.sleep(0.005)
        waiting = [asyncio.create_task(queue.search([ask("b")])) for _ in range(3)]
        await asyncio.sleep(0.02)
        with pytest.raises(RequestError, match="overloaded: 3 searches wait") as refused:
            await queue.search([ask("c")])
        assert refused.value.status == 503
        with pytest.raises(RequestError, match="a request may hold at most 3 queries, got 4") as refused:
            await queue.search([ask("d")] * 4)
        assert refused.value.status == 413
        engine.released.set()
        await asyncio.gather(busy, *waiting)

    run(engine, body, max_waiting=3)


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_calls": 0}, {"max_waiting": 0}, {"max_wait_s": -1.0}])
def test_unusable_options(recording: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SearchQueue(recording(), Metrics(), **options)


def test_a_close_that_hangs_is_left_behind(recording: Any) -> None:
    engine = recording()
    engine.close = lambda: engine.closed.wait(30)
    try:
        assert asyncio.run(SearchQueue(engine, Metrics()).close(0.05)) == "it took longer than 0.05 s"
    finally:
        engine.closed.set()


def test_a_close_that_fails_is_one_line(recording: Any) -> None:
    engine = recording()
    engine.close = lambda: sys.exit("no connection")
    assert asyncio.run(SearchQueue(engine, Metrics()).close(5)) == "SystemExit: no connection"


def test_histogram() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 2, 3, 100):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1, 1]
    assert (histogram.count, histogram.mean) == (5, 21.3)
