from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from zerosearch_env.llm.http.deduplicate import Deduplicator


class Work:
    """Work that ends when the test says so."""

    def __init__(self) -> None:
        self.started = self.cancelled = 0
        self.end: asyncio.Future[str] | None = None

    async def __call__(self) -> str:
        self.started += 1
        self.end = asyncio.get_running_loop().create_future()
        try:
            return await self.end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def join(flights: Deduplicator[str], key: bytes, work: Callable[[], Coroutine[Any, Any, str]]) -> asyncio.Task[str]:
    return asyncio.create_task(flights.join(key, work))


def test_equal_work_is_done_once_and_other_work_beside_it() -> None:
    async def main() -> None:
        flights: Deduplicator[str] = Deduplicator()
        one, two = Work(), Work()
        callers = [join(flights, b"a", one) for _ in range(5)]
        other = join(flights, b"b", two)
        await turns()
        assert (one.started, two.started) == (1, 1)
        assert one.end is not None
        assert two.end is not None
        one.end.set_result("done")
        two.end.set_result("other")
        assert await asyncio.gather(*callers) == ["done"] * 5
        assert await other == "other"
        assert not flights._flights, "nothing is remembered"
        again = join(flights, b"a", one)
        await turns()
        assert one.started == 2
        one.end.set_result("later")
        assert await again == "later"

    asyncio.run(main())


def test_a_caller_that_leaves_does_not_stop_the_others() -> None:
    async def main() -> None:
        flights: Deduplicator[str] = Deduplicator()
        work = Work()
        first, second = join(flights, b"a", work), join(flights, b"a", work)
        await turns()
        first.cancel()
        await turns()
        assert first.cancelled()
        assert work.cancelled == 0
        assert work.end is not None
        work.end.set_result("done")
        assert await second == "done"

    asyncio.run(main())


def test_the_last_caller_that_leaves_ends_the_work() -> None:
    async def main() -> None:
        flights: Deduplicator[str] = Deduplicator()
        work = Work()
        callers = [join(flights, b"a", work) for _ in range(3)]
        await turns()
        for caller in callers:
            caller.cancel()
        await turns()
        assert work.cancelled == 1
        assert not flights._flights
        new = join(flights, b"a", work)
        await turns()
        assert work.started == 2
        assert work.end is not None
        work.end.set_result("done")
        assert await new == "done"

    asyncio.run(main())


def test_an_error_reaches_every_caller_and_is_forgotten() -> None:
    async def main() -> None:
        flights: Deduplicator[str] = Deduplicator()
        work = Work()
        callers = [join(flights, b"a", work) for _ in range(3)]
        await turns()
        assert work.end is not None
        work.end.set_exception(OSError("gone"))
        for result in await asyncio.gather(*callers, return_exceptions=True):
            assert isinstance(result, OSError)
        new = join(flights, b"a", work)
        await turns()
        assert work.end is not None
        work.end.set_result("done")
        assert await new == "done"

    asyncio.run(main())


def test_work_of_a_loop_that_has_gone_is_not_waited_for() -> None:
    flights: Deduplicator[str] = Deduplicator()
    work = Work()

    async def leave_it() -> None:
        task = join(flights, b"a", work)
        await turns()
        flights._flights[b"a"].waiting += 1  # as if its caller had vanished with a forked parent
        task.cancel()

    async def main() -> str:
        task = join(flights, b"a", work)
        await turns()
        assert work.end is not None
        work.end.set_result("done")
        return await asyncio.wait_for(task, 10)

    asyncio.run(leave_it())
    assert asyncio.run(main()) == "done"
    assert not flights._flights
