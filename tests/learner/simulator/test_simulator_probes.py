"""The searches of an evaluation: hops of the world, pairs of a file, coupled noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zerosearch_agents.simulator.evaluation.probes import (
    Probe,
    at_level,
    choose,
    pair_probes,
    template_documents,
    world_probes,
)
from zerosearch_agents.simulator.pairs.pair import Pair
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import make_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.types import Question, full_text


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("world", "test", world=WorldConfig(passages=600))


def test_every_hop_is_a_search_that_the_corpus_can_answer(dataset) -> None:
    probes = world_probes(dataset.questions)
    hops = sum(int((question.metadata or {})["hops"]) for question in dataset.questions)
    assert len(probes) == hops > len(dataset.questions)
    last = {probe.question: probe for probe in probes}
    assert all(set(probe.hop_answers or ()) == set(probe.answers) for probe in last.values())
    engine = make_engine("corpus", dataset=dataset)
    searches = at_level(probes[-100:], 0.0, top_k=5, seed=0)
    results = engine.search([request for _, request in searches])
    answered = [
        any(contains_answer(full_text(d), probe.hop_answers or ()) for d in result.documents)
        for (probe, _), result in zip(searches, results, strict=True)
    ]
    assert sum(answered) >= 95


def test_other_questions_have_no_hops() -> None:
    with pytest.raises(ConfigError, match="not from the built-in world"):
        world_probes([Question("q", "Which?", ("x",))])


def test_pairs(pairs: list[Pair]) -> None:
    doubled = [pairs[0], pairs[1], replace(pairs[0], noisy=True)]
    probes = pair_probes(doubled)
    assert [probe.query for probe in probes] == ["garden 0", "garden 1"]
    assert probes[0].documents == pairs[0].documents
    assert probes[0].hop_answers is None


def test_the_choice_is_nested_and_keeps_questions_together(dataset) -> None:
    probes = world_probes(dataset.questions)
    few, more = choose(probes, 20, 1), choose(probes, 40, 1)
    assert more[:20] == few
    assert few != choose(probes, 20, 2)
    asked = [probe.question for probe in more[:-1]]
    assert all(asked.index(q) + asked.count(q) - 1 == len(asked) - 1 - asked[::-1].index(q) for q in asked)


def test_noise_is_coupled(pairs: list[Pair]) -> None:
    probes = pair_probes(pairs)
    at = {p: [bool(r.noisy) for _, r in at_level(probes, p, top_k=2, seed=3)] for p in (0.0, 0.3, 0.6, 1.0)}
    assert not any(at[0.0])
    assert all(at[1.0])
    assert 0 < sum(at[0.3]) < sum(at[0.6]) < len(probes)
    assert all(high or not low for low, high in zip(at[0.3], at[0.6], strict=True))
    first, second = (at_level(probes, p, top_k=2, seed=3) for p in (0.3, 0.6))
    assert [r.seed for _, r in first] == [r.seed for _, r in second]


def test_the_template_states_the_answer_in_useful_sets_alone(pairs: list[Pair]) -> None:
    (_, useful), (_, noisy) = (at_level(pair_probes(pairs[:1]), p, top_k=2, seed=0)[0] for p in (0.0, 1.0))
    assert all("oak" in d.text for d in template_documents(useful))
    assert not any("oak" in d.text for d in template_documents(noisy))
    assert len({d.text for d in template_documents(useful)}) == 2


def test_which_searches_are_on_the_way() -> None:
    assert Probe("author of X", "Where was the author of X born?", ("Ely",), ("Bo Ek",)).on_the_way
    assert not Probe("birthplace of Bo Ek", "Where was the author of X born?", ("Ely",), ("Ely", "Ely town")).on_the_way
    assert not Probe("X", "Where was the author of X born?", ("Ely",)).on_the_way
