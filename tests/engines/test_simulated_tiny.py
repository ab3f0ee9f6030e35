"""The tiny simulation LLM as it is shipped: its size, its figures, its determinism, whole episodes on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import gymnasium as gym
import pytest

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_agents.simulator.evaluation.probes import at_level, choose, world_probes
from zerosearch_env.datasets.world.make import WorldConfig, make_world
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.make import TINY_MODEL
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import SearchRequest

pytestmark = pytest.mark.slow

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def requests() -> list[SearchRequest]:
    """Searches for every hop of questions about entities that it never saw, half of them noisy."""
    world = make_world(WorldConfig(seed=11, passages=2000, questions=400), "test")
    return [request for _, request in at_level(choose(world_probes(world.questions), 6, 1), 0.5, top_k=3, seed=1)]


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    engine = make_engine("simulated:tiny")
    assert isinstance(engine, SimulatedEngine)
    yield engine
    engine.close()


def test_the_asset_is_small() -> None:
    assert (TINY_MODEL / "model.safetensors").is_file()
    assert sum(file.stat().st_size for file in TINY_MODEL.iterdir()) <= 8_000_000


def test_a_search_gives_the_same_documents_alone_and_in_a_batch(
    requests: list[SearchRequest], engine: SimulatedEngine
) -> None:
    together = [result.documents for result in engine.search(requests)]
    assert [make_engine("simulated:tiny").search([request])[0].documents for request in requests[:2]] == together[:2]
    assert [result.documents for result in engine.search(requests[::-1])][::-1] == together


@pytest.mark.parametrize("top_k", [1, 8])
def test_other_numbers_of_documents(requests: list[SearchRequest], engine: SimulatedEngine, top_k: int) -> None:
    found = engine.search([replace(request, top_k=top_k) for request in requests[:2]])
    assert all(len(result.documents) == top_k for result in found)


def test_queries_of_another_world_never_break_it(engine: SimulatedEngine) -> None:
    """Documents or a typed failure, and no answer in a noisy one."""
    queries = ["", "?", "Wer schrieb \u201eFaust\u201c?", "x" * 500, "weather tomorrow"]
    searches = [
        SearchRequest(query, "Who wrote Faust?", ("Goethe",), noisy, 3, seed=4)
        for query in queries
        for noisy in (False, True)
    ]
    for search, result in zip(searches, engine.search(searches), strict=True):
        assert len(result.documents) == (0 if result.failure else 3), search
        assert not (search.noisy and any("goethe" in document.text.lower() for document in result.documents)), search


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_whole_episodes_in_the_environment(level: float) -> None:
    spec = {"search_engine": "simulated:tiny", "split": "test", "noise_level": level, "top_k": 3}

    def play(*seeds: int) -> list[list[object]]:
        env = gym.make("ZeroSearch-v0", **spec)
        episodes = []
        for seed in seeds:
            observation, info = env.reset(seed=seed)
            seen: list[object] = [observation]
            for query in (info["question"], "founder of Acadex Bank"):
                observation, _, terminated, truncated, info = env.step(f"<search>{query}</search>")
                assert not terminated
                assert not truncated
                assert len(info["documents"]) == 3
                assert info["noisy"] is bool(level)
                assert not (level and info["answer_in_documents"])
                seen.append(observation)
            _, _, terminated, _, info = env.step("<answer>nobody knows</answer>")
            assert terminated
            assert info["stop_reason"] == "answer"
            episodes.append(seen)
        env.close()
        return episodes

    episode = play(1)
    if level == 0:
        assert episode == play(0, 1)[1:]  # an episode is the same whatever was played before it


def test_a_cache_knows_it_by_its_contents(engine: SimulatedEngine) -> None:
    assert re.fullmatch(r"simulator-tiny [0-9a-f]{32} \(float32\)", engine._backend.identity)


def test_the_spec_stands_alone() -> None:
    with pytest.raises(ConfigError, match="takes no argument"):
        make_engine("simulated:tiny:7b")
    with pytest.raises(ConfigError, match="api_key_env"):
        make_engine({"kind": "simulated", "argument": "tiny", "api_key_env": "KEY"})
