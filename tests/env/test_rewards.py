from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from squad import squad

from zerosearch_env.errors import ConfigError
from zerosearch_env.game.reward_registry import get_reward
from zerosearch_env.game.rewards import (
    exact_match,
    f1_score,
    normalize_answer,
    score,
    sub_exact_match,
)

# Texts that are likely to touch the rules: articles, punctuation, white space of several kinds, odd Unicode.
pieces = st.sampled_from(
    ["a", "an", "the", "The", " ", "  ", "\n", "\t", ".", "-", "'", "_", "\u2013", "é", "İ", "ß", "x", "york", "new"]
)
texts = st.lists(pieces, max_size=8).map("".join) | st.text(max_size=12)
few = settings(max_examples=80)
answer_lists = st.lists(texts, min_size=1, max_size=3)


def squad_f1(prediction: str, answer: str) -> float:
    predicted, gold = squad(prediction).split(), squad(answer).split()
    common = sum((Counter(predicted) & Counter(gold)).values())
    if not common:
        return 0.0
    precision, recall = Fraction(common, len(predicted)), Fraction(common, len(gold))
    return float(2 * precision * recall / (precision + recall))


@few
@given(texts)
@example("".join(map(chr, range(256))))
@example("".join(map(chr, range(128))))
@example("\u212a.\ud800!")  # the sign for kelvin, which becomes ASCII in lower case, and a lone surrogate
@example("\u212a.")
def test_normalisation_is_squads(text: str) -> None:
    assert normalize_answer(text) == squad(text)


@pytest.mark.slow
@few
@given(texts, answer_lists)
@example("The", ["The"])
@example("new york", ["york", "new"])
def test_scores_follow_their_definitions(prediction: str, answers: list[str]) -> None:
    em, f1, subem = score(prediction, answers)
    normal = squad(prediction)
    if normal:
        golds = [squad(answer) for answer in answers if squad(answer)]
        assert em == float(normal in golds)
        assert f1 == pytest.approx(max((squad_f1(prediction, gold) for gold in golds), default=0.0))
        assert subem == float(any(f" {gold} " in f" {normal} " for gold in golds))
    assert em <= min(f1, subem)
    assert (exact_match(prediction, answers), f1_score(prediction, answers), sub_exact_match(prediction, answers)) == (
        em,
        f1,
        subem,
    )


@few
@given(answer_lists)
@example(["The"])
@example(["!!!", "a"])
@pytest.mark.slow
def test_every_gold_answer_scores_one(answers: list[str]) -> None:
    for answer in answers:
        expected = (1.0, 1.0, 1.0) if answer.strip() else (0.0, 0.0, 0.0)
        assert score(answer, answers) == expected


@pytest.mark.parametrize("nothing", [None, "", " ", "\n\t "])
def test_an_empty_or_missing_prediction_scores_nothing(nothing: str | None) -> None:
    assert score(nothing, ["The", "", " ", "x"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("The Geneva", ["geneva"], (1.0, 1.0, 1.0)),
        ("U.S.", ["us"], (1.0, 1.0, 1.0)),
        ("not Paris but London", ["Paris"], (0.0, 0.4, 1.0)),
        ("I do not know", ["no"], (0.0, 0.0, 0.0)),  # a substring test would say yes
        ("anything at all", ["The"], (0.0, 0.0, 0.0)),  # so would one against an empty gold answer
        ("the", ["The"], (1.0, 1.0, 1.0)),
        ("A", ["The"], (0.0, 0.0, 0.0)),
        ("The Lord of the Rings", ["lord of rings"], (1.0, 1.0, 1.0)),
        ("Paris, France", ["Lyon", "Paris"], (0.0, 2 / 3, 1.0)),
        ("Genève", ["Geneve"], (0.0, 0.0, 0.0)),
        ("東京", ["東京"], (1.0, 1.0, 1.0)),
        ("a b b", ["b b c"], (0.0, 0.8, 0.0)),
    ],
)
def test_known_cases(prediction: str, answers: list[str], expected: tuple[float, float, float]) -> None:
    assert score(prediction, answers) == pytest.approx(expected)


def test_a_long_prediction_is_scored_like_a_short_one() -> None:
    assert score("word " * 500 + "Paris", ["Paris"]) == (0.0, 2 / 502, 0.0)
    assert score("word " * 49 + "Paris", ["Paris"]) == (0.0, 2 / 51, 1.0)
    assert score("word " * 50 + "Paris", ["Paris"]) == (0.0, 2 / 52, 0.0)
    assert score("word " * 60, ["Word " * 60]) == (1.0, 1.0, 1.0)
    assert score("  The  " * 200 + "Paris", ["paris"]) == (1.0, 1.0, 1.0)


def test_one_text_instead_of_a_list_of_answers_is_an_error() -> None:
    with pytest.raises(ConfigError, match="got one string 'Paris'"):
        score("Paris", "Paris")


def test_rewards_by_name() -> None:
    answers = ["Paris"]
    assert get_reward("em")("Paris!", answers) == 1.0
    assert get_reward("f1")("Paris, France", answers) == pytest.approx(2 / 3)
    assert get_reward("subem")("Paris, France", answers) == 1.0
    with pytest.raises(ConfigError, match=r"unknown reward 'sub_em'\. Did you mean 'subem'\?"):
        get_reward("sub_em")
    with pytest.raises(ConfigError, match="must be a name or a callable, got 3"):
        get_reward(3)  # type: ignore[arg-type]


def test_a_callable_reward_is_used() -> None:
    reward = get_reward(lambda prediction, answers: -1 if prediction is None else len(answers))
    assert reward(None, ["x"]) == -1.0
    assert reward("x", ["x", "y"]) == 2.0
    assert type(reward(None, ["x"])) is float
    assert get_reward(reward) is reward
    assert get_reward(exact_match) is exact_match
    single: Any = np.float32(0.5)
    assert get_reward(lambda p, a: single)("x", ["x"]) == 0.5
    assert get_reward(lambda p, a: p == "x")("x", ["x"]) == 1.0


@pytest.mark.parametrize("value", [None, "1", float("nan"), float("inf"), -float("inf"), 10**400, [1.0], 1j])
def test_a_callable_reward_must_return_a_finite_number(value: object) -> None:
    def broken(prediction: str | None, answers: object) -> object:
        return value

    with pytest.raises(ConfigError, match=r"broken returned for prediction 'x' must be a finite number, got"):
        get_reward(broken)("x", ["x"])  # type: ignore[arg-type]


def test_a_callable_reward_that_raises_is_named() -> None:
    def broken(prediction: str | None, answers: Sequence[str]) -> float:
        return float(len(prediction))  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"the reward .*broken raised TypeError for prediction None: object of type"):
        get_reward(broken)(None, ["x"])


def test_real_gold_answers_score_one(shared_data: Path) -> None:
    for name, field in (("nq_open_dev.jsonl", "answer"), ("hotpotqa_dev_qa.jsonl", "answers")):
        rows = [json.loads(line) for line in (shared_data / name).read_text(encoding="utf-8").strip().split("\n")]
        for row in rows[::4]:
            for answer in row[field]:
                assert score(answer, row[field]) == (1.0, 1.0, 1.0), row


def test_real_predictions_are_judged_as_recorded(shared_data: Path) -> None:
    lines = (shared_data / "real_search_trajectories.jsonl").read_text(encoding="utf-8").strip().split("\n")
    rows = [json.loads(line) for line in lines]
    assert len(rows) > 1000
    assert [row["id"] for row in rows if bool(exact_match(row["prediction"], row["answers"])) != row["em"]] == []
