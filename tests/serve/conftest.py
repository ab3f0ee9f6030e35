"""A server in a thread, a client without libraries, and engines that record what they are asked."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from zerosearch_env.engines import BatchedEngine
from zerosearch_env.serve.access import open_socket
from zerosearch_env.serve.app import Service
from zerosearch_env.serve.command import ServeConfig, make_server, make_service
from zerosearch_env.types import Document, SearchRequest, SearchResult


class RecordingEngine(BatchedEngine):
    """Documents that repeat the query; every call costs the same, however many requests it holds.

    Queries with a meaning: "boom" raises, "fail" is a failed search, "refuse" a request that cannot be answered.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.calls: list[list[SearchRequest]] = []
        self.released = threading.Event()
        self.released.set()
        self.closed = threading.Event()

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        from zerosearch_env.errors import ConfigError, EngineError

        self.calls.append(list(requests))
        time.sleep(self.seconds)
        self.released.wait(30)
        queries = [request.query for request in requests]
        if "down" in queries:
            raise EngineError("the simulator cannot be reached", attempts=3)
        if "refuse" in queries:
            raise ConfigError("top_k is larger than the corpus")
        if "boom" in queries:
            raise KeyError("a bug of the engine")
        if "short" in queries:
            return []
        return [self.result(request) for request in requests]

    @staticmethod
    def result(request: SearchRequest) -> SearchResult:
        if request.query == "fail":
            return SearchResult((), attempts=3, failure="the simulator answered 500")
        documents = (
            Document(f"Title {rank}", f"{'noise' if noisy else 'about'} {request.query}", f"doc-{rank}", 2.0 / rank)
            for rank, noisy in enumerate(request.noise_mask, start=1)
        )
        return SearchResult(tuple(documents), engine="recording")

    def close(self) -> None:
        super().close()
        self.closed.set()


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RunningServer:
    port: int
    engine: Any
    service: Service
    server: Any
    thread: threading.Thread
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {"Content-Type": "application/json"} | headers)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


Start = Callable[..., RunningServer]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start(engine, **options of ServeConfig)` runs a server in a thread until the test ends."""
    pytest.importorskip("starlette", reason="starlette is not installed (extra serve)")
    uvicorn = pytest.importorskip("uvicorn.server", reason="uvicorn is not installed (extra serve)")

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 20)

    # It looks every 0.1 s whether to stop, and then pauses for as long.
    monkeypatch.setattr(uvicorn, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    running: list[RunningServer] = []

    def run(
        engine: Any = None, *, grace_s: float = 5.0, limits: Mapping[str, float] | None = None, **options: Any
    ) -> RunningServer:
        engine = RecordingEngine() if engine is None else engine
        service = make_service(ServeConfig(**({"dataset": None} | options)), engine)
        service = replace(service, limits=replace(service.limits, **(limits or {})))
        listener = open_socket("127.0.0.1", 0)
        server = make_server(service, grace_s=grace_s)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        running.append(RunningServer(listener.getsockname()[1], engine, service, server, thread))
        thread.start()
        return running[-1]

    yield run
    for server in running:
        server.stop()


@pytest.fixture
def together() -> Callable[[Sequence[Callable[[], Any]]], list[Any]]:
    """Calls functions at the same time, each in a thread of its own; their results, in order."""

    def run(functions: Sequence[Callable[[], Any]]) -> list[Any]:
        results: list[Any] = [None] * len(functions)

        def call(position: int) -> None:
            results[position] = functions[position]()

        threads = [threading.Thread(target=call, args=(position,)) for position in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results

    return run


@pytest.fixture
def recording() -> type[RecordingEngine]:
    return RecordingEngine
