"""Wrong answers: of the type of the right ones, never a gold answer, the same for all searches of an episode."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world import WorldConfig, make_world
from zerosearch_env.datasets.world.make import make_facts
from zerosearch_env.datasets.world.text import RELATIONS
from zerosearch_env.engines.kinds.answer_types import answer_class, answer_form, answer_key, asked_for
from zerosearch_env.engines.kinds.numbers import is_date, is_numeric, other_forms, shift_numbers
from zerosearch_env.engines.kinds.pools import WrongAnswers
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.game.rewards import exact_match
from zerosearch_env.types import Question

SHARED = os.environ.get("ZEROSEARCH_SHARED_DATA", "")
SMALL = WorldConfig(passages=1200)


def _type(answer: str) -> str:
    """The type class of an answer by a rule that shares nothing with the package's."""
    text = answer.strip().strip(".,").lower()
    if text in ("yes", "no"):
        return "yes or no"
    if re.fullmatch(r"1\d{3}|20\d\d", text):
        return "year"
    if re.search(r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec", text) and re.search(r"\d", text):
        return "date"
    if re.search(r"\d", text):
        return "number"
    if re.match(r"(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b", text):
        return "number"
    words = [word for word in re.findall(r"[^\W\d_]+", answer) if len(word) > 3]
    capitals = sum(word[0].isupper() for word in words)
    return "name" if 2 * capitals > len(words) or (not words and answer != text) else "words"


def _check(questions: Sequence[Question], wrong: WrongAnswers, seed: int = 3) -> float:
    """Check what always holds of the wrong answers; the share that is of the type of the right one."""
    same = 0
    for question in questions:
        made = wrong.of(question.text, question.answers, seed)
        assert made.text
        assert not exact_match(made.text, question.answers)
        for _, text in made.pairs:
            assert not exact_match(text, question.answers)
            assert not contains_answer(text, question.answers)
            assert not any(contains_answer(gold, (text,)) for gold in question.answers)
        same += _type(made.text) == _type(question.answers[0])
    return same / len(questions)


@pytest.mark.parametrize(
    ("answer", "date", "pattern"),
    [
        ("14 December 1972 UTC", True, r"\d\d? [A-Z][a-z]+ \d{4} UTC"),
        ("Dec. 14, 1972", True, r"[A-Z][a-z]{2,3}\. \d\d?, \d{4}"),
        ("the 1890s", False, r"the 1[89]\d0s|the 20[01]0s"),
        ("three times", False, r"(two|four|five|six|seven|eight|nine) times"),
        ("Three", False, r"[TFSEN][a-z]+"),
        ("1,250", False, r"\d,\d{3}|\d{3}"),
        ("18th century", False, r"\d+(st|nd|rd|th) century"),
        ("1945 to 1951", False, r"19\d\d to 19\d\d"),
        ("3.7 million", False, r"\d\.\d million"),
        ("98%", False, r"\d\d%"),
        ("007", False, r"00\d"),
    ],
)
def test_numbers_keep_their_form(answer: str, date: bool, pattern: str) -> None:
    assert is_numeric(answer)
    assert is_date(answer) is date
    for seed in range(60):
        wrong = shift_numbers(answer, seed, date=date)
        assert wrong != answer
        assert re.fullmatch(pattern, wrong), wrong


def test_forms_of_one_number_stay_forms_of_one_number() -> None:
    names = "two three four five six seven eight nine".split()
    for seed in range(30):
        assert names.index(shift_numbers("four", seed, date=False)) + 2 == int(shift_numbers("4", seed, date=False))
        full = shift_numbers("14 December 1972", seed, date=True)
        assert full.endswith(shift_numbers("December 1972", seed, date=True))
        low, high = map(int, shift_numbers("1945 to 1951", seed, date=False).split(" to "))
        assert high - low == 6
        assert 2 <= abs(low - 1945) <= 14
        assert int(shift_numbers("2024", seed, date=False)) <= 2025
    assert set(other_forms("April 9, 1634")) == {"9 April 1634", "April 9 1634"}


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("who wrote the song what child is this", "who"),
        ("In which county is the town in which he was born?", "county"),
        ("What is the nationality of the director of Bugsy?", "nationality"),
        ("what is the name of the actor who played him", "actor"),
        ("The act was passed by a man who was prime minister when?", "when"),
        ("One Raffles Place is the tallest building in what city?", "city"),
        ("how many seasons are there", "how many"),
        ("Are both films?", ""),
    ],
)
def test_what_a_question_asks_for(question: str, asked: str) -> None:
    assert asked_for(question) == asked


def test_forms_and_classes_of_answers() -> None:
    examples = {
        **{"Yes": "yes/no", "1956": "year", "May 1956": "date", "13 seasons": "number", "Michael Curtiz": "person"},
        **{"Boston, Massachusetts": "place", "The Amber Lantern": "title", "Casablanca": "name", "paid work": "phrase"},
        **{"Ludwig van Beethoven": "person", "J. R. R. Tolkien": "person", "House of Lords": "name"},
    }
    assert {answer: answer_form(answer) for answer in examples} == examples
    assert answer_class("Finnmark County", "") == "place"
    assert answer_class("Hong Kong", "city") == "place"
    assert answer_class("Genesis", "band") == "organisation"
    assert answer_class("Genesis", "") == ""
    assert answer_key("The Zürich-based  Firm") == "zurich based firm"


def test_wrong_answers_over_all_relations_of_the_world() -> None:
    """600 questions: each wrong answer is a thing of the kind that the relation leads to, whatever the relation."""
    world, facts = make_world(SMALL, "test"), make_facts(SMALL, "test")
    kinds = {name: kind for kind, names in facts.names.items() for name in names}
    objects = {relation.name: relation.object for relation in RELATIONS}
    wrong = WrongAnswers(world.questions)
    assert _check(world.questions, wrong) >= 0.95
    seen, right = set(), 0
    for question in world.questions:
        assert question.metadata is not None
        relation = question.metadata["relations"][-1]
        seen.add(relation)
        made = wrong.of(question.text, question.answers, 3)
        right += kinds.get(made.text, "year" if re.fullmatch(r"\d{4}", made.text) else None) == objects[relation]
        for place, step in enumerate(question.steps):
            other = wrong.of(question.text, (step,), 3, step=place).text
            assert other != step
            right += kinds.get(other) == kinds.get(step)
    assert seen == set(objects)
    assert right >= 0.99 * sum(1 + len(question.steps) for question in world.questions)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="ZEROSEARCH_SHARED_DATA is not set")
@pytest.mark.parametrize("name", ["nq_open_dev", "hotpotqa_dev_qa", "wikiq_one_hop_test", "wikiq_two_hop_train"])
def test_wrong_answers_of_real_questions(name: str) -> None:
    questions = load_dataset(str(Path(SHARED) / f"{name}.jsonl"), "test").questions
    wrong = WrongAnswers(questions)
    assert _check(questions[:: max(1, len(questions) // 500)][:500], wrong) >= 0.95


def test_a_wrong_answer_depends_on_question_and_seed_alone() -> None:
    questions = make_world(SMALL, "test").questions
    first, second = WrongAnswers(questions), pickle.loads(pickle.dumps(WrongAnswers(questions)))
    for question in questions[:50]:
        made = first.of(question.text, question.answers, 7)
        assert made == first.of(question.text, question.answers, 7) == second.of(question.text, question.answers, 7)
    several = {first.of(questions[0].text, questions[0].answers, seed).text for seed in range(40)}
    assert len(several) > 10


def test_yes_becomes_no() -> None:
    questions = [
        Question("1", "Is it?", ("yes",)),
        Question("2", "Who?", ("Ada Ash",)),
        Question("3", "Who?", ("Bo Be",)),
    ]
    wrong = WrongAnswers(questions)
    assert wrong.of("Is it?", ("yes",), 0).text == "no"
    assert wrong.of("Is it?", ("No",), 0).text == "Yes"
    assert wrong.of("Who is it?", ("Ada Ash",), 0).text == "Bo Be"
    assert not WrongAnswers(questions[:1])


def test_a_wrong_answer_is_never_part_of_the_question_or_the_answer() -> None:
    golds = ("United States of America", "Paris")
    pool = ["Paris", "paris", "The Paris", "America", "United States", "Rome", "New York"]
    questions = [Question(str(i), "Where?", (answer,)) for i, answer in enumerate(pool)]
    wrong = WrongAnswers(questions)
    assert {wrong.of("Where is it, in Rome?", golds, seed).text for seed in range(50)} == {"New York"}


def test_a_dataset_without_other_answers_says_so() -> None:
    questions = [Question("1", "Who is it?", ("Ada Ash",)), Question("2", "Who was it?", ("ada ash",))]
    with pytest.raises(EngineError, match="Ada Ash"):
        WrongAnswers(questions).of("Who is it?", ("Ada Ash",), 0)
    with pytest.raises(ConfigError, match=r"'counterfactual'.*larger dataset"):
        WrongAnswers(questions).check(questions, "counterfactual")
    WrongAnswers(questions).check([Question("3", "When?", ("1956",)), Question("4", "Is it?", ("no",))], "mixed")
