"""The synthetic world: identical for a seed, disjoint splits, answers that stand in its passages."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from zerosearch_env.datasets.world.make import PATHS, WorldConfig, make_facts, make_passages, make_world, passage_facts
from zerosearch_env.datasets.world.names import GRAMMARS, aliases, draw_names
from zerosearch_env.datasets.world.text import RELATIONS
from zerosearch_env.engines.corpus.build import build_index
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import Dataset, Question

SMALL = WorldConfig(seed=3, passages=600)

DIGEST = """
import hashlib
from zerosearch_env.datasets.world.make import WorldConfig, make_world
world = make_world(WorldConfig(seed=3, passages=600), "train")
print(hashlib.sha256(repr((list(world.passages), list(world.questions))).encode()).hexdigest())
"""


def metadata(question: Question) -> Mapping[str, Any]:
    assert question.metadata is not None
    return question.metadata


def digest(world: Dataset) -> str:
    return hashlib.sha256(repr((list(world.passages or ()), list(world.questions))).encode()).hexdigest()


@pytest.fixture(scope="module")
def world() -> Dataset:
    return make_world(SMALL, "train")


@pytest.mark.slow
def test_the_same_seed_gives_identical_data_in_every_process(world: Dataset) -> None:
    other = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(world)
    assert digest(world) == "822ce5df102f408ccb689109bd1c0b66067d944172e10b499b69eaf9026bd3b8"


def test_seeds_and_splits_differ(world: Dataset) -> None:
    assert digest(make_world(WorldConfig(seed=4, passages=600), "train")) != digest(world)
    assert digest(make_world(SMALL, "test")) != digest(world)


@pytest.mark.slow
def test_train_and_test_share_no_entity_whatever_the_seed() -> None:
    def titles(split: str, seeds: range) -> set[str]:
        worlds = [make_world(WorldConfig(seed=seed, passages=8000), split) for seed in seeds]
        return {passage.title for world in worlds for passage in world.passages or ()}

    train, test = titles("train", range(3)), titles("test", range(3, 6))
    assert len(train) > 5000
    assert len(test) > 5000
    assert not train & test


def test_long_names_keep_the_splits_apart() -> None:
    train, test = (set(draw_names("town", 4000, split, 5)) for split in ("train", "test"))
    assert len(train) == len(test) == 4000
    assert not train & test


def test_every_relation_has_its_share_of_questions_and_passages(world: Dataset) -> None:
    assert len(RELATIONS) >= 12
    assert len({relation.name for relation in RELATIONS}) == len(RELATIONS)
    asked = {name for question in world.questions for name in metadata(question)["relations"]}
    assert asked == {relation.name for relation in RELATIONS}
    hops = [metadata(question)["hops"] for question in world.questions]
    assert hops.count(1) == hops.count(2) == len(hops) / 2


def test_passages_have_about_thirty_words(world: Dataset) -> None:
    words = [len(f"{p.title} {p.text}".split()) for p in world.passages or ()]
    assert 24 <= sum(words) / len(words) <= 34
    assert max(words) <= 48


def test_every_hop_of_every_question_is_stated_once(world: Dataset) -> None:
    facts = make_facts(SMALL, "train")
    stated: dict[tuple[str, str], list[str]] = {}
    passages = list(world.passages or ())
    for passage, triples in zip(passages, passage_facts(facts), strict=True):
        for relation, subject, object_ in triples:
            assert subject == passage.title
            assert object_ in passage.text
            stated.setdefault((relation.name, subject), []).append(object_)
    for question in world.questions:
        subject = metadata(question)["subject"]
        for relation, object_ in zip(metadata(question)["relations"], metadata(question)["chain"], strict=True):
            assert stated[relation, subject] == [object_]
            subject = object_
        assert question.answers[0] == metadata(question)["chain"][-1]
        assert question.answers[0] != metadata(question)["subject"]
        assert metadata(question)["subject"] in question.text
        assert question.answers[0] not in question.text


def test_questions_are_distinct_and_named_for_their_split(world: Dataset) -> None:
    assert len({q.id for q in world.questions}) == len(world.questions)
    assert len({(metadata(q)["subject"], metadata(q)["relations"]) for q in world.questions}) == len(world.questions)
    assert {q.split for q in world.questions} == {"train"}


def test_aliases_are_accepted_answers() -> None:
    assert aliases("person", "Corin Ashby") == ("C. Ashby",)
    assert aliases("work", "The Amber Lantern") == ("Amber Lantern",)
    assert aliases("town", "Arva Bay") == ()


def test_spouses_and_twin_towns_are_mutual(world: Dataset) -> None:
    facts = make_facts(SMALL, "train")
    for name in ("spouse", "twin_town"):
        partner = facts.objects[name]
        mutual = (partner[partner] == range(len(partner))).mean()
        assert mutual > 0.98  # all, but for a ring of three where the number is odd
        assert (partner != range(len(partner))).all()


def test_years_follow_each_other() -> None:
    facts = make_facts(SMALL, "train")
    born = facts.objects["birth_year"]
    assert (facts.objects["publication_year"] > born[facts.objects["author"]]).all()
    assert (facts.objects["founding_year"] > born[facts.objects["founder"]]).all()


@pytest.mark.parametrize("passages", [200, 3000])
def test_sizes(passages: int) -> None:
    world = make_world(WorldConfig(passages=passages, questions=50, hops=(2,)), "test")
    assert len(world.passages or ()) == passages
    assert [metadata(q)["hops"] for q in world.questions] == [2] * 50


def test_a_large_world_draws_distinct_names() -> None:
    facts = make_facts(WorldConfig(passages=200_000), "train")
    for kind, names in facts.names.items():
        assert len(set(names)) == len(names), kind
    assert sum(len(names) for kind, names in facts.names.items() if kind != "region") == 100_000


def test_there_are_more_kinds_of_two_hop_questions() -> None:
    assert len(PATHS[2]) == sum(a.object == b.subject for a in RELATIONS for b in RELATIONS) > 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": 100}, "from 200 to 1000000, got 100"),
        ({"questions": 0}, "at least 1, got 0"),
        ({"passages": 6000.0}, "passages must be a whole number, got 6000.0"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"questions": 10.5}, "questions must be a whole number"),
        ({"hops": 1}, r"\(1,\), \(2,\) or \(1, 2\), got 1"),
        ({"hops": (3,)}, r"\(1,\), \(2,\) or \(1, 2\), got \(3,\)"),
    ],
)
def test_bad_sizes(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WorldConfig(**options)  # type: ignore[arg-type]


def test_whole_numbers_of_numpy_and_lists_will_do() -> None:
    config = WorldConfig(seed=np.int64(3), passages=np.int64(600), hops=[1, 2])  # type: ignore[arg-type]
    assert config == SMALL
    assert type(config.passages) is int


def test_too_many_questions() -> None:
    with pytest.raises(ConfigError, match="Ask for fewer, or for more passages"):
        make_world(WorldConfig(passages=200, questions=5000), "train")


def test_unknown_split_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        make_world(SMALL, "trian")


def test_every_kind_of_subject_has_a_name_grammar() -> None:
    assert {relation.subject for relation in RELATIONS} <= set(GRAMMARS)
    assert next(make_passages(make_facts(SMALL, "train"), 0)).source == "world-0"


def test_a_dataset_of_any_size_has_a_short_repr() -> None:
    world = make_world(SMALL, "test")
    assert world.passages is not None
    assert (
        repr(world) == f"Dataset('world', 'test', questions: {len(world.questions)}, passages: {len(world.passages)})"
    )
    assert repr(replace(world, passages=None, skipped_rows=3)).endswith("passages: none, skipped_rows=3)")
    assert len(repr(make_facts(SMALL, "test"))) + len(repr(build_index([f"word{i}" for i in range(999)]))) < 500
