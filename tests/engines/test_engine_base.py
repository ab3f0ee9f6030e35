from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from zerosearch_env.engines import (
    BatchedEngine,
    ConstantEngine,
    CorpusEngine,
    FailingEngine,
    SearchEngine,
    engine_parts,
    make_engine,
    register_engine,
)
from zerosearch_env.engines import registry as registry_module
from zerosearch_env.engines.remote.engine import RemoteOptions
from zerosearch_env.engines.remote.make import retrieve_engine
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.types import Dataset, Document, Question, SearchRequest, SearchResult


def ask(query: str = "q", *, top_k: int = 5) -> SearchRequest:
    return SearchRequest(query, "question?", ("answer",), noisy=False, top_k=top_k, seed=1)


class EchoEngine(BatchedEngine):
    """Returns the query as a document, and remembers the batches."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.broken = False

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        self._check_open()
        self.batches.append([request.query for request in requests])
        self.threads.add(threading.get_ident())
        if self.broken:
            raise RuntimeError("broken")
        return [SearchResult((Document("", request.query),)) for request in requests]


async def ask_together(engine: SearchEngine, queries: Sequence[str]) -> list[str]:
    results = await asyncio.gather(*(engine.asearch(ask(query)) for query in queries))
    return [result.documents[0].text for result in results]


def test_concurrent_callers_share_few_calls_and_get_their_own_results() -> None:
    engine = EchoEngine()
    queries = [f"query {i}" for i in range(100)]
    assert asyncio.run(ask_together(engine, queries)) == queries
    assert len(engine.batches) <= 2
    assert threading.get_ident() not in engine.threads


def test_a_batch_has_a_maximum() -> None:
    engine = EchoEngine(max_wait_s=60.0, max_batch=4)
    queries = [f"query {i}" for i in range(8)]
    assert asyncio.run(asyncio.wait_for(ask_together(engine, queries), 30)) == queries
    assert [len(batch) for batch in engine.batches] == [4, 4]


def test_an_engine_serves_one_event_loop_after_another() -> None:
    engine = EchoEngine(max_wait_s=0.0)
    for query in ("first", "second"):
        assert asyncio.run(ask_together(engine, [query])) == [query]


def test_an_exception_fails_every_caller_that_it_concerns() -> None:
    engine = EchoEngine()
    engine.broken = True

    async def main() -> list[SearchResult | BaseException]:
        return await asyncio.gather(*(engine.asearch(ask(q)) for q in "ab"), return_exceptions=True)

    assert [str(error) for error in asyncio.run(main())] == ["EchoEngine raised RuntimeError: broken"] * 2


def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    engine = EchoEngine()

    async def main() -> str:
        gone = asyncio.create_task(engine.asearch(ask("gone")))
        stays = asyncio.create_task(engine.asearch(ask("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        return (await stays).documents[0].text

    assert asyncio.run(main()) == "stays"
    assert engine.batches == [["stays"]]


@pytest.mark.parametrize("make", [EchoEngine, ConstantEngine, FailingEngine, lambda: CorpusEngine([Document("", "x")])])
def test_close_may_be_repeated_and_ends_searching(make: Any) -> None:
    engine = make()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.search([ask()])
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(engine.asearch(ask()))


@pytest.mark.parametrize("options", [{"max_wait_s": -1}, {"max_wait_s": float("nan")}, {"max_batch": 0}])
def test_unusable_batching_options(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        EchoEngine(**options)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_FACTORIES", dict(registry_module._FACTORIES))


@pytest.mark.usefixtures("registry")
def test_a_kind_of_ones_own_gets_argument_dataset_and_options() -> None:
    made: list[tuple[str, Dataset | None, int]] = []

    def factory(argument: str, dataset: Dataset | None, *, size: int = 1) -> SearchEngine:
        made.append((argument, dataset, size))
        return ConstantEngine()

    register_engine("mine", factory)
    register_engine("mine", factory)
    data = Dataset("d", "train", (Question("1", "q", ("a",)),))
    make_engine("mine")
    make_engine("mine:http://host:80/x", dataset=data)
    make_engine({"kind": "mine", "argument": "arg", "size": 3})
    assert made == [("", None, 1), ("http://host:80/x", data, 1), ("arg", None, 3)]
    with pytest.raises(ConfigError, match="registered already"):
        register_engine("mine", lambda argument, dataset: ConstantEngine())
    with pytest.raises(ConfigError, match=r"'sizes'.*Did you mean 'size'"):
        make_engine({"kind": "mine", "sizes": 3})


@pytest.mark.parametrize("kind", ["", "a:b"])
def test_a_kind_needs_a_usable_name(kind: str) -> None:
    with pytest.raises(ConfigError, match="without a colon"):
        register_engine(kind, lambda argument, dataset: ConstantEngine())


def test_a_ready_made_engine_is_returned_as_it_is() -> None:
    engine = ConstantEngine()
    assert make_engine(engine) is engine


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("copus", "Did you mean 'corpus'"),
        ("simulated:opneai:http://x", "unknown backend of the simulated engine 'opneai'. Did you mean 'openai'"),
        ("", "unknown search engine ''"),
        ({"kind": "corpse"}, "Did you mean 'corpus'"),
        ({"kind": ["corpus"]}, "unknown search engine"),
        ({"path": "x"}, "needs a 'kind'"),
        (3, "got int"),
        (None, "got NoneType"),
    ],
)
def test_unknown_descriptions(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(spec)


class Bare:
    """An engine that derives from nothing and has one of the optional parts."""

    waits = True

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return ConstantEngine().search(requests)

    async def asearch(self, request: SearchRequest) -> SearchResult:
        return self.search([request])[0]

    def close(self) -> None:
        pass


def test_parts_that_an_engine_lacks_have_defaults() -> None:
    parts = engine_parts(Bare())
    assert parts.waits
    assert (tuple(parts.required_fields), parts.stats()) == ((), None)
    parts.check_top_k(1_000_000, noise=True)
    assert not engine_parts(ConstantEngine()).waits
    assert make_engine(Bare()).search([]) == []


def test_an_attribute_that_is_no_method_does_not_replace_one() -> None:
    class Counting(Bare):
        stats = 3
        check_top_k = None

    parts = engine_parts(Counting())
    assert parts.stats() is None
    parts.check_top_k(5)


def test_a_factory_lists_the_options_that_it_passes_on() -> None:
    parameters = inspect.signature(retrieve_engine).parameters
    names = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert {"dialect", "batch_size", "max_pages", "http", "cache"} <= names
    assert not names & {"options", "urls"}
    assert parameters["max_pages"].default == RemoteOptions().max_pages
    with pytest.raises(ConfigError, match=r"'max_page'\. Did you mean 'max_pages'"):
        make_engine({"kind": "retrieve", "argument": "http://127.0.0.1:1", "max_page": 2})


def test_a_factory_may_be_named_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_FACTORIES", dict(registry_module._FACTORIES))
    register_engine("far", "zerosearch_env.engines.corpus.engine:corpus_engine")
    data = Dataset("d", "train", (), passages=(Document("A", "a"),))
    assert isinstance(make_engine("far", dataset=data), CorpusEngine)
