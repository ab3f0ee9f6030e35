from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from sim_fakes import ask
from web_fakes import FAST, KEY, PATHS, VARIABLES, Service, engine, ranks

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread
from zerosearch_env.engines import check_engine, make_engine
from zerosearch_env.engines.cache import ResultCache
from zerosearch_env.engines.remote.web import WebSearchEngine
from zerosearch_env.errors import ConfigError, EngineError, QuotaError
from zerosearch_env.types import SearchResult

PROVIDERS = tuple(VARIABLES)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, KEY)


@pytest.fixture
def service() -> Iterator[tuple[Service, ServerThread]]:
    serving = Service()
    with ServerThread(serving) as thread:
        yield serving, thread


@pytest.mark.parametrize("provider", PROVIDERS)
def test_useful_documents_are_the_best_results(provider: str) -> None:
    serving = Service(provider)
    with ServerThread(serving) as thread:
        client = engine(thread, provider)
        first, second = client.search([ask(), ask("another", top_k=12)])
        client.close()
    for result, query, count in ((first, "capital of France", 3), (second, "another", 12)):
        assert result.failure is None
        assert result.engine == provider
        expected = [(title, text, f"https://x/{rank}") for rank, title, text in ranks(query, 0, count, 200)]
        assert [(d.title, d.text, d.source) for d in result.documents] == expected
    assert {call.path.split("?")[0] for call in serving.calls} == {PATHS[provider]}
    assert len(serving.calls) == (2 if provider == "brave" else 3), "a second page where the first is too short"
    assert (first.attempts, second.attempts) == (1, len(serving.calls) - 1)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_it_keeps_the_promises_of_an_engine(provider: str) -> None:
    with ServerThread(Service(provider)) as thread:
        client = engine(thread, provider)
        check_engine(client)
        check_engine(client, [ask(), ask("other", seed=9, top_k=5)])
        client.close()


def test_the_engine_takes_nothing_behind_a_colon_and_does_not_repeat_it() -> None:
    with pytest.raises(ConfigError, match="takes no argument, got 9 characters") as caught:
        make_engine("serper:hush-hush")
    assert "hush" not in str(caught.value)


EXTRAS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "serpapi": (
        {
            "answer_box": {"title": "Box", "answer": "forty"},
            "knowledge_graph": {"title": "Graph", "description": "a thing"},
            "related_questions": [{"question": "Why?", "snippet": "Because."}],
        },
        ["Box", "Graph"],
    ),
    "serper": (
        {
            "answerBox": {"title": "Box", "answer": "forty"},
            "knowledgeGraph": {"title": "Graph", "description": "a thing"},
            "peopleAlsoAsk": [{"question": "Why?", "snippet": "Because."}],
        },
        ["Box", "Graph"],
    ),
    "brave": (
        {
            "infobox": {"results": [{"title": "Graph", "long_desc": "a thing"}]},
            "faq": {"results": [{"question": "Why?", "answer": "Because."}]},
        },
        ["Graph"],
    ),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_extras_stand_around_the_results_of_the_first_page(provider: str) -> None:
    more, head = EXTRAS[provider]
    everything = ["related_questions", "knowledge_graph", "answer_box"]
    with ServerThread(Service(provider, held=4, more=more)) as thread:
        found = {}
        for extras in ([], ["knowledge_graph"], everything):
            client = engine(thread, provider, extras=extras, page_size=2)
            found[len(extras)] = [d.title for d in client.search([ask(top_k=12)])[0].documents]
            client.close()
    titles = [f"Title {rank}" for rank in range(4)]
    assert found[0] == titles
    assert found[1] == ["Graph", *titles]
    assert found[3] == [*head, *titles[:2], "Why?", *titles[2:]]


def test_noise_is_drawn_by_the_seed_from_the_lower_ranks(service: tuple[Service, ServerThread]) -> None:
    serving, thread = service
    client = engine(thread, noise_depth=12)
    drawn = [client.search([ask(noisy=True, seed=seed)])[0].documents for seed in range(12)]
    assert [asked.get("page", 1) for asked in serving.asked] == [1, 2] * 12
    again = client.search([ask(noisy=True, seed=3)])[0].documents
    useful = client.search([ask()])[0].documents
    positions = [[int(document.title.split()[1]) for document in documents] for documents in drawn]
    assert drawn[3] == again
    assert len({tuple(row) for row in positions}) > 6
    assert all(row == sorted(row) and row[0] >= 3 and row[-1] < 15 for row in positions)
    assert not any(rank % 4 == 0 for row in positions for rank in row), "none states the answer"
    masks = [(False, False, False), (True, False, False), (True, False, True), (True, True, True)]
    by_mask = [client.search([ask(noisy=mask, seed=3)])[0].documents for mask in masks]
    client.close()
    for mask, documents in zip(masks, by_mask, strict=True):
        expected = [again[slot] if noise else useful[slot] for slot, noise in enumerate(mask)]
        assert list(documents) == expected, "a higher level turns further slots noisy and changes no other"
    assert client.stats().noisy_documents == 3 * 13 + 1 + 2 + 3


def test_a_ranking_that_is_too_short_for_noise_fails_and_makes_nothing_up() -> None:
    for held, options, why in ((5, {}, "no further results"), (200, {"max_pages": 1, "page_size": 4}, "max_pages=1")):
        with ServerThread(Service(held=held)) as thread:
            client = engine(thread, **options)
            useful, noisy = client.search([ask(), ask(noisy=True)])
            client.close()
        assert len(useful.documents) == 3
        assert noisy.documents == ()
        assert why in str(noisy.failure)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_nothing_found_is_an_empty_result(provider: str) -> None:
    serving = Service(provider, held=0)
    with ServerThread(serving) as thread:
        client = engine(thread, provider)
        results = client.search([ask(), ask(noisy=True), ask("<x>\x00")])
        client.close()
    assert [(result.documents, result.failure) for result in results] == [((), None)] * 3
    assert len(serving.calls) == 1, "the first two want the same page, and nobody asks for an empty query"
    assert client.stats().empty_searches == 3


def test_pages_end_where_the_service_ends() -> None:
    serving = Service("brave", held=1000)
    with ServerThread(serving) as thread:
        client = engine(thread, "brave", page_size=1, max_pages=50)
        (result,) = client.search([ask(top_k=30)])
        client.close()
    assert [int(asked.get("offset", 0)) for asked in serving.asked] == list(range(10))
    assert len(result.documents) == 10


def test_queries_and_documents_are_cleaned_and_bounded() -> None:
    serving = Service("brave")
    with ServerThread(serving) as thread:
        client = engine(thread, "brave", max_query_chars=1000, max_document_chars=12)
        long = client.search([ask("</search><b>one\x00two\u200b " + "w " * 60), ask("x" * 900), ask("a&b=c+d #1 é")])
        client.close()
    assert serving.asked[0]["q"] == "one two" + " w" * 48, "50 words are what Brave takes"
    assert serving.asked[1]["q"] == "x" * 400
    assert serving.asked[2]["q"] == "a&b=c+d 1 é"
    assert all(len(document.text) <= 12 for result in long for document in result.documents)


def test_country_language_and_page_size_are_sent(service: tuple[Service, ServerThread]) -> None:
    serving, thread = service
    client = engine(thread, country="US", language="pt-BR", page_size=30)
    client.search([ask()])
    client.close()
    assert serving.asked == [{"q": "capital of France", "num": 30, "gl": "us", "hl": "pt-br"}]


def test_equal_pages_are_fetched_and_paid_once() -> None:
    serving, released = Service(), threading.Event()

    async def handler(call: Call) -> Reply:
        await asyncio.to_thread(released.wait, 20)
        return await serving(call)

    async def waiting(client: Any, count: int) -> None:
        while sum(flight.waiting for flight in client._flights._flights.values()) != count:
            await asyncio.sleep(0.005)

    async def main(client: Any) -> list[SearchResult]:
        searches = [asyncio.create_task(client.asearch(ask("third", seed=seed))) for seed in range(20)]
        await waiting(client, 20)
        searches.pop().cancel()
        await waiting(client, 19)  # the cancellation has reached the other loop
        released.set()
        return await asyncio.gather(*searches)

    with ServerThread(handler) as thread:
        client = engine(thread, price_per_1000=1.0)
        assert len({result.documents for result in asyncio.run(main(client))}) == 1
        batch = client.search([ask(seed=seed) for seed in range(20)] + [ask("other")])
        assert len({result.documents for result in batch[:20]}) == 1
        client.close()
    assert len(serving.calls) == 3
    stats = client.stats()
    assert (stats.searches, stats.pages, stats.requests) == (40, 3, 3)
    assert stats.cost == pytest.approx(0.003)


def test_a_page_is_paid_once_also_for_who_looked_into_the_cache_before_it_came(tmp_path: Path) -> None:
    serving, looked = Service(), threading.Barrier(2)
    first_is_done = threading.Event()

    def look_up(keys: Any) -> Any:
        hits = WebSearchEngine._look_up(client, keys)
        number = looked.wait(20)  # both have looked before either asks
        if number:
            first_is_done.wait(20)
        return hits

    async def main() -> list[SearchResult]:
        searches = [asyncio.create_task(client.asearch(ask("third", seed=seed))) for seed in range(2)]
        done, _ = await asyncio.wait(searches, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        first_is_done.set()
        return await asyncio.gather(*searches)

    with ServerThread(serving) as thread:
        client = engine(thread, cache=str(tmp_path / "cache"), price_per_1000=1.0)
        client._look_up = look_up
        first, second = asyncio.run(main())
        client.close()
    assert first.documents == second.documents
    assert len(serving.calls) == client.stats().requests == 1


def test_the_cache_spares_requests_and_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    serving = Service(held=25)
    with ServerThread(serving) as thread:
        requests = [ask(), ask(noisy=True, seed=1), ask(noisy=True, seed=2), ask("elsewhere", top_k=60)]
        client = engine(thread, cache=str(path))
        first = client.search(requests)
        sent = len(serving.calls)
        client.close()
        again = engine(thread, cache=str(path))
        second = again.search(requests)
        assert len(serving.calls) == sent
        assert [result.documents for result in second] == [result.documents for result in first]
        assert first[0].documents[0].source == "https://x/0"
        stats = again.stats()
        assert (stats.hit_rate, stats.requests, stats.cost) == (1.0, 0, 0.0)
        again.close()
        for options in ({"country": "de"}, {"language": "de"}, {"page_size": 20}, {"extras": ["answer_box"]}):
            other = engine(thread, cache=str(path), **options)
            other.search([ask()])
            assert other.stats().cache_hits == 0, options
            other.close()
    with ResultCache(path) as cache:
        assert set(cache.describe().by_engine) == {"serper"}
    assert not any(b"hush" in file.read_bytes() for file in tmp_path.iterdir())


def test_failures_are_not_cached(tmp_path: Path) -> None:
    serving = Service()
    broken = True

    async def handler(call: Call) -> Reply:
        return Reply({}, 404) if broken else await serving(call)

    with ServerThread(handler) as thread:
        client = engine(thread, cache=str(tmp_path / "cache"))
        assert client.search([ask()])[0].failure is not None
        broken = False
        assert client.search([ask()])[0].failure is None
        client.close()


def test_a_budget_ends_every_search_with_a_quota_error(service: tuple[Service, ServerThread]) -> None:
    serving, thread = service
    client = engine(thread, max_requests=2, price_per_1000=4.0)
    results = client.search([ask(f"query {number}") for number in range(5)])
    assert [result.failure is None for result in results].count(True) == 2, "an answer that was paid is passed on"
    assert all("max_requests=2" in str(result.failure) for result in results if result.failure is not None)
    assert len(serving.calls) == 2
    with pytest.raises(QuotaError, match="max_requests=2"):
        client.search([ask("one more")])
    with pytest.raises(QuotaError, match="max_requests=2"):
        asyncio.run(client.asearch(ask("one more")))
    stats = client.stats()
    assert (stats.requests, stats.budget_left, stats.cost) == (2, 0, pytest.approx(0.008))
    assert len(serving.calls) == 2
    client.close()


def test_copies_search_too_and_carry_neither_key_nor_counts(service: tuple[Service, ServerThread]) -> None:
    _, thread = service
    client = engine(thread, max_requests=5)
    client.search([ask()])
    packed = pickle.dumps(client)
    assert b"hush" not in packed
    copy = pickle.loads(packed)
    assert (copy.stats().searches, copy.stats().budget_left) == (0, 5)
    assert copy.search([ask()])[0].documents == client.search([ask()])[0].documents
    copy.close()
    client.close()
    client.close()
    with pytest.raises(EngineError, match="closed"):
        client.search([ask()])
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(client.asearch(ask()))


def test_a_copy_without_a_key_says_so(service: tuple[Service, ServerThread], monkeypatch: pytest.MonkeyPatch) -> None:
    client = engine(service[1])
    packed = pickle.dumps(client)
    monkeypatch.delenv("SERPER_API_KEY")
    with pytest.raises(ConfigError, match="SERPER_API_KEY"):
        pickle.loads(packed)
    assert client.search([ask()])[0].failure is None, "the engine keeps the key that it was built with"
    client.close()


def test_a_key_of_another_variable_is_used(
    service: tuple[Service, ServerThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SERPER_API_KEY")
    monkeypatch.setenv("OTHER_KEY", f" {KEY}\n")
    client = engine(service[1], key_env="OTHER_KEY")
    assert client.search([ask()])[0].failure is None
    client.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_env": "UNSET_KEY"}, "UNSET_KEY with the key of serper is not set"),
        ({"key_env": "hush-hush"}, "variable that the option for the key names"),
        ({"key_env": "STRANGE"}, "STRANGE holds characters that no key has"),
        ({"url": "http://example.org"}, "in the clear to http://example.org"),
        ({"url": "http://127.0.0.1.example.org"}, "in the clear"),
        ({"url": "https://any:hush@example.org"}, "must not hold a password"),
        ({"url": "https://example.org/?key=hush"}, "must not hold a password"),
        ({"url": "example.org"}, "expected an address"),
        ({"extras": ["answerbox"]}, "Did you mean 'answer_box'"),
        ({"extras": "answers"}, "unknown extra"),
        ({"extras": 3}, "extras must be a list"),
        ({"page_size": 101}, "at most 100 results per page"),
        ({"page_size": 0}, "page_size"),
        ({"country": "u"}, "country must be a code"),
        ({"country": 1}, "country must be a code"),
        ({"language": "en&api_key=x"}, "language must be a code"),
        ({"rate": 0}, "rate must be"),
        ({"rate": "fast"}, "rate must be"),
        ({"rate": float("nan")}, "rate must be"),
        ({"burst": 0}, "burst must be"),
        ({"max_requests": -1}, "max_requests"),
        ({"price_per_1000": "cheap"}, "price_per_1000"),
        ({"noise_depth": -1}, "noise_depth"),
        ({"http": {"attempt": 3}}, "Did you mean 'attempts'"),
        ({"rates": 1}, "Did you mean 'rate'"),
    ],
)
def test_unusable_descriptions(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRANGE", "two hush words")
    with pytest.raises(ConfigError, match=message) as caught:
        make_engine({"kind": "serper", **options})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_missing_key_is_named(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLES[provider])
    with pytest.raises(ConfigError, match=f"{VARIABLES[provider]} with the key of {provider} is not set"):
        make_engine(provider)
    monkeypatch.setenv(VARIABLES[provider], KEY)
    client = make_engine(provider)  # the real address; nothing is sent before the first search
    client.close()


def test_a_whole_episode_and_the_end_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with ServerThread(Service()) as thread:
        spec = {"kind": "serper", "url": thread.url, "http": FAST, "rate": 1e6}
        env = gym.make("ZeroSearch-v0", search_engine=spec, noise_level=1.0)
        assert env.spec is not None
        assert "hush" not in json.dumps(json.loads(env.spec.to_json()))
        env.reset(seed=0)
        observation, _, terminated, truncated, info = env.step("<search>lighthouse</search>")
        assert (terminated, truncated) == (False, False)
        assert info["noisy"]
        assert len(info["documents"]) == 5
        assert "On lighthouse: " in observation
        _, _, terminated, _, info = env.step("<answer>nobody</answer>")
        assert terminated
        env.reset(seed=1)
        env.step("<search>lighthouse</search>")
    observation, reward, terminated, truncated, info = env.step("<search>harbour</search>")
    env.close()
    assert (terminated, truncated, reward) == (False, True, 0.0)
    assert "failed after 2 attempts" in info["error"]
    assert "hush" not in info["error"] + observation
