"""Demonstrations: well-formed episodes, and habits that do what they say."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import numpy as np
import pytest

from zerosearch_agents.sft.rows import Segment
from zerosearch_agents.tiny.demonstrations import Habits, demonstrate
from zerosearch_agents.tiny.reading import Library, open_library, plan_text, title_words
from zerosearch_env.datasets.world.make import WorldConfig, make_questions
from zerosearch_env.datasets.world.text import BY_NAME
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question, StopReason

SEED = 1_000_007
DILIGENT = Habits(short_query=0.0, short_next_query=0.0, careless=0.0, search_again=1.0, next_hop=1.0)
RULES = make_rules(prompt_template="Question: {question}\n")
THINK = re.compile(r"<think>[^<>]+</think><(search|answer)> [^<>]+</(search|answer)>")


@pytest.fixture(scope="module")
def library() -> Library:
    return open_library(SEED, 1000)


@pytest.fixture(scope="module")
def engine(library: Library) -> CorpusEngine:
    return CorpusEngine(library.passages)


@pytest.fixture(scope="module")
def questions(library: Library) -> list[Question]:
    """60 of one hop, then 60 of two."""
    config = WorldConfig(seed=SEED, passages=1000, questions=120)
    return list(make_questions(library.facts, config, "train", SEED))


def played(
    library: Library,
    engine: CorpusEngine,
    questions: list[Question],
    habits: Habits,
    noise: float = 0.0,
    seed: int = 0,
) -> list[tuple[Episode, list[Segment]]]:
    episodes = [Episode(q, RULES, noise_level=noise, seed=i) for i, q in enumerate(questions)]
    texts = demonstrate(library, engine, episodes, habits, np.random.default_rng(seed))
    return list(zip(episodes, texts, strict=True))


def score(demonstrations: list[tuple[Episode, list[Segment]]]) -> float:
    """Mean exact match."""
    return float(
        np.mean([episode.rules.reward(answer(episode), episode.question.answers) for episode, _ in demonstrations])
    )


def answer(episode: Episode) -> str:
    return re.findall(r"<answer> (.*?)</answer>", episode.text)[-1]


def queries(text: str) -> list[str]:
    return re.findall(r"<search> (.*?)</search>", text)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_episodes_are_well_formed(
    library: Library, engine: CorpusEngine, questions: list[Question], noise: float
) -> None:
    for episode, text in played(library, engine, questions, Habits(), noise):
        assert episode.done
        assert episode.stop_reason == StopReason.ANSWER
        assert "".join(piece for piece, _ in text) == episode.text
        assert text[0] == (episode.prompt, False)
        assert [flag for _, flag in text] == [False, *([True, False] * episode.searches), True]
        kinds = [episode.rules.protocol.parse(piece).kind for piece, trained in text if trained]
        assert kinds == ["search"] * episode.searches + ["answer"]
        assert all(THINK.fullmatch(piece) for piece, trained in text if trained)
        assert 1 <= episode.searches <= RULES.max_turns


def test_the_generator_decides(library: Library, engine: CorpusEngine, questions: list[Question]) -> None:
    first, again, other = (
        [text for _, text in played(library, engine, questions, Habits(), 0.5, seed)] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_no_episodes(library: Library, engine: CorpusEngine) -> None:
    assert demonstrate(library, engine, [], Habits(), np.random.default_rng(0)) == []


def test_a_diligent_searcher_is_right(library: Library, engine: CorpusEngine, questions: list[Question]) -> None:
    demonstrations = played(library, engine, questions, DILIGENT)
    assert score(demonstrations) > 0.97
    hops = [q.metadata["hops"] for q in questions if q.metadata]
    assert np.mean([e.searches == h for (e, _), h in zip(demonstrations, hops, strict=True)]) > 0.9


def test_every_diligent_thought_is_true(library: Library, engine: CorpusEngine, questions: list[Question]) -> None:
    facts = {(r.noun, s): o for stated in library.stated for r, s, o in stated}
    noted = 0
    for episode, _ in played(library, engine, questions, DILIGENT, 0.3):
        for noun, subject, object_ in re.findall(r"<think>The ([a-z ]+?) of ([^<]+?) is ([^<]+?)\.[ <]", episode.text):
            if object_ != "not here":
                assert facts[noun, subject] == object_
                noted += 1
    assert noted > 100


def test_the_first_thought_is_the_plan(library: Library, engine: CorpusEngine, questions: list[Question]) -> None:
    for episode, text in played(library, engine, questions, DILIGENT):
        metadata = episode.question.metadata
        assert metadata is not None
        path = [BY_NAME[name] for name in metadata["relations"]]
        assert text[1][0].startswith(
            f"<think>{plan_text(path, metadata['subject'])}</think><search> {path[0].noun} of "
        )
        if len(path) == 2 and episode.searches == 2:
            assert f" Find the {path[1].noun} of {metadata['chain'][0]}.</think>" in text[3][0]


@pytest.mark.parametrize("short", [0, 1])
@pytest.mark.parametrize("short_next", [0, 1])
def test_short_queries_name_the_last_word(
    library: Library, engine: CorpusEngine, questions: list[Question], short: int, short_next: int
) -> None:
    habits = replace(DILIGENT, short_query=float(short), short_next_query=float(short_next))
    second = 0
    for episode, text in played(library, engine, questions, habits):
        assert episode.question.metadata is not None
        subject, asked = episode.question.metadata["subject"], queries(episode.text)
        assert asked[0].partition(" of ")[2] == (title_words(subject)[-1] if short else subject)
        if next_hop := re.search(r" of [^<]+? is ([^<]+?)\. Find the ([a-z ]+) of", text[3][0]):
            bridge, noun = next_hop.groups()
            assert asked[1] == f"{noun} of {title_words(bridge)[-1] if short_next else bridge}"
            second += 1
    assert second > 20


def test_a_careless_searcher_guesses_at_once(library: Library, engine: CorpusEngine, questions: list[Question]) -> None:
    for episode, text in played(library, engine, questions, replace(DILIGENT, careless=1.0, search_again=0.0)):
        assert episode.searches == 1
        assert text[-1][0].startswith("<think>Just guess.</think>")
        assert answer(episode) in episode.text[: episode.text.rindex("<answer>")]  # read off a document


def test_without_search_again_a_miss_is_the_end(
    library: Library, engine: CorpusEngine, questions: list[Question]
) -> None:
    assert all(
        e.searches == 1 for e, _ in played(library, engine, questions[:60], replace(DILIGENT, search_again=0.0), 1.0)
    )
    searches = [e.searches for e, _ in played(library, engine, questions[:60], DILIGENT, 1.0)]
    assert np.mean(searches) > 4  # every search is noisy: it goes on to the last turn


def test_without_next_hop_the_first_object_is_the_answer(
    library: Library, engine: CorpusEngine, questions: list[Question]
) -> None:
    demonstrations = played(library, engine, questions[60:], replace(DILIGENT, next_hop=0.0))
    chains = [e.question.metadata["chain"] for e, _ in demonstrations if e.question.metadata]
    assert np.mean([answer(e) == chain[0] for (e, _), chain in zip(demonstrations, chains, strict=True)]) > 0.95
    assert score(demonstrations) < 0.1


@pytest.mark.parametrize("name", [entry.name for entry in fields(Habits)])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_habits_are_probabilities(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"habits.{name} must be a number of at least 0 and at most 1"):
        Habits(**{name: value})


def test_an_abstaining_searcher_says_unknown_only_without_the_fact(
    library: Library, engine: CorpusEngine, questions: list[Question]
) -> None:
    habits = replace(DILIGENT, search_again=0.0, abstain=1.0)
    missed = played(library, engine, questions[:40], habits, 1.0)
    assert {answer(episode) for episode, _ in missed} == {"unknown"}
    assert score(played(library, engine, questions[:40], habits)) > 0.97
