"""Scores for any script: what SQuAD's scores judge wrongly, and properties."""

from __future__ import annotations

import unicodedata

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.engines import ConstantEngine
from zerosearch_env.game.reward_registry import get_reward
from zerosearch_env.game.rewards import exact_match
from zerosearch_env.game.unicode_scores import unicode_exact_match, unicode_f1, unicode_score, unicode_tokens

DASH, MINUS, CURLY = "\u2013", "\u2212", "\u2019"


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("1914-1918", f"1914{DASH}1918"),
        (f"{MINUS}10", "-10"),
        ("Röntgen", "Ro\u0308ntgen"),
        ("Paris\u200b", "Paris"),
        ("\uff21\uff22\uff23", "abc"),
        (f"O{CURLY}Brien", "O'Brien"),
        ("OBrien", "O'Brien"),
        ("Jean-Luc", "Jean Luc"),
        ("\u201cParis\u201d", "Paris"),
        ("巴黎。", "巴黎"),
        ("村上 春樹", "村上春樹"),
        ("दिल्ली।", "दिल्ली"),
        ("\u0663", "3"),
        ("(A)", "A"),
        ("A.", "A"),
        ("The Beatles", "beatles"),
        ("the", "The"),
        ("!!!", "!!!"),
        ("U.S.A.", "USA"),
        ("John F. Kennedy", "John F Kennedy"),
        ("1,234.5", "1234.5"),
        ("2008.", "2008"),
        ("B-52", "B 52"),
        ("c++.", "C++"),
    ],
)
def test_equal(prediction: str, answer: str) -> None:
    assert unicode_score(prediction, ["Lyon", answer]) == (1.0, 1.0)
    assert unicode_score(answer, [prediction]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("prediction", "answer", "f1"),
    [
        ("15 million", "1.5 million", 1 / 2),
        ("10", "-10", 0.0),
        ("C", "C++", 0.0),
        ("C#", "C", 0.0),
        ("Zurich", "Zürich", 0.0),
        ("北京市", "北京", 4 / 5),
        ("東京", "京都", 1 / 2),
        ("not Paris", "Paris", 2 / 3),
        ("", "x", 0.0),
        (None, "x", 0.0),
        ("x", "", 0.0),
    ],
)
def test_different(prediction: str | None, answer: str, f1: float) -> None:
    assert unicode_score(prediction, [answer]) == (0.0, pytest.approx(f1))


@settings(max_examples=100)
@given(st.text(max_size=20))
def test_form_does_not_matter(text: str) -> None:
    tokens = unicode_tokens(text)
    for form in "NFC", "NFD":
        assert unicode_tokens(unicodedata.normalize(form, text)) == tokens
    if tokens:
        assert unicode_score(text, [text]) == (1.0, 1.0)


def test_they_are_rewards_of_the_environment_and_always_in_the_info() -> None:
    assert get_reward("em_unicode") is unicode_exact_match
    assert get_reward("f1_unicode") is unicode_f1
    questions = [{"question": "Capital of China?", "answers": ["北京"]}]
    paid = {}
    for reward in "em", "em_unicode", "f1_unicode":
        env = gym.make("ZeroSearch-v0", dataset=questions, search_engine=ConstantEngine(), reward=reward)
        env.reset(seed=0)
        _, paid[reward], _, _, info = env.step("<answer>北京市。</answer>")
        assert (info["em"], info["em_unicode"], info["f1_unicode"]) == (0.0, 0.0, 0.8)
    assert paid == {"em": 0.0, "em_unicode": 0.0, "f1_unicode": 0.8}
    assert exact_match("巴黎。", ["巴黎"]) == 0.0
    assert unicode_exact_match("巴黎。", ["巴黎"]) == 1.0
