"""Style distances, distinctness and rates, on cases that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zerosearch_agents.simulator.evaluation import style
from zerosearch_agents.simulator.evaluation.style import distinctness, halves, length, ratio, style_distance, words
from zerosearch_env.types import Document


def sample(*texts: str) -> dict[str, list[Document]]:
    return {f"q{i}": [Document("", text)] for i, text in enumerate(texts)}


def drawn(seed: int, count: int, vocabulary: int = 30, size: int = 20) -> dict[str, list[Document]]:
    """Documents of one made-up engine."""
    rng = np.random.default_rng(seed)
    return sample(*(" ".join(f"w{chr(97 + i)}" for i in rng.integers(0, vocabulary, size)) for _ in range(count)))


def test_words() -> None:
    assert words("In 1984, Ida's bridge") == ["in", "0000", ",", "ida", "'", "s", "bridge"]


def test_the_divergence_is_in_bits() -> None:
    p, q = np.array([[1.0, 1.0, 0.0]]), np.array([0.0, 0.0, 5.0])
    assert style._jensen_shannon(p, q) == pytest.approx([1.0])
    assert style._jensen_shannon(p, np.array([2.0, 2.0, 0.0])) == pytest.approx([0.0])
    # p = (1/2, 1/2), q = (1, 0): H(3/4, 1/4) - 1/2
    half = style._jensen_shannon(np.array([1.0, 1.0]), np.array([1.0, 0.0]))
    assert half == pytest.approx(-0.75 * math.log2(0.75) + 0.25 * 2 - 0.5)


def test_lengths_are_compared_in_words() -> None:
    found = style_distance(sample("a b c", "a b c"), sample("a b c d e", "a b c d e", "a b c d e"))
    assert found["length"].mean == pytest.approx(2.0)
    assert found["length"].n == 2


def test_the_same_engine_is_near_zero_and_another_is_not() -> None:
    """The plain divergence of two small samples is far from 0; the corrected one is close, and usually covers 0."""
    covered, plain, corrected = 0, [], []
    for seed in range(20):
        one, other = drawn(2 * seed, 15), drawn(2 * seed + 1, 15)
        found = style_distance(one, other)["words"]
        corrected.append(found.mean)
        covered += found.low <= 0.0
        counts = [
            np.array([[" ".join(d.text for d in unit).split().count(f"w{chr(97 + i)}") for i in range(30)]])
            for sample_ in (one, other)
            for unit in [[d for ds in sample_.values() for d in ds]]
        ]
        plain.append(float(style._jensen_shannon(counts[0][0] * 1.0, counts[1][0] * 1.0)))
    assert np.mean(corrected) < 0.3 * np.mean(plain)
    assert covered >= 17
    other = style_distance(drawn(0, 15), drawn(1, 15, vocabulary=15))["words"]
    assert other.low > 0.1


def test_topics_share_a_bin() -> None:
    """Words that occur with only one question do not change the distance; the words around them do."""
    topics = [f"The {word} is a tree." for word in ("oak", "ash", "elm", "fir")]
    others = [f"The {word} is a tree." for word in ("bay", "box", "fig", "yew")]
    assert style_distance(sample(*topics), sample(*others))["words"].mean == pytest.approx(0.0, abs=1e-9)
    salad = [f"Tree {word} the a is." for word in ("bay", "box", "fig", "yew")]
    found = style_distance(sample(*topics), sample(*salad))
    assert found["words"].mean == pytest.approx(0.0, abs=1e-9)
    assert found["word_pairs"].low > 0.5


def test_nothing_to_compare() -> None:
    assert math.isnan(style_distance({}, sample("a"))["words"].mean)
    assert math.isnan(style_distance({"q": []}, sample("a"))["length"].mean)


def test_halves_share_no_question() -> None:
    one, other = halves(sample(*"abcde"))
    assert list(one) == ["q0", "q2", "q4"]
    assert list(other) == ["q1", "q3"]


def test_distinctness() -> None:
    sets = [[Document("", "a b c"), Document("", "a b d")], [Document("", "a b c")]]
    found = distinctness(sets)
    assert found["documents"].mean == pytest.approx(2 / 3)
    assert found["word_pairs"].mean == pytest.approx((3 / 4 + 1) / 2)
    assert found["overlap"].mean == pytest.approx(2 / 4)
    assert found["overlap"].n == 1


def test_length() -> None:
    assert length([Document("A title", "two words"), Document("", "six words are in this text")]).mean == 5.0


def test_rates() -> None:
    found = ratio([10, 10, 10], [1, 1, 1])
    assert (found.mean, found.low, found.high, found.n) == (10.0, 10.0, 10.0, 3)
    wide = ratio([10, 10, 10], [1, 1, 10])
    assert wide.mean == pytest.approx(2.5)
    assert 0 < wide.low < 2.5 < wide.high
    alone = ratio([10], [2])
    assert alone.mean == 5.0
    assert math.isnan(alone.low)
    assert ratio([0, 0], [1, 1]).mean == 0.0
    assert math.isnan(ratio([], []).mean)
