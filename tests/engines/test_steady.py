"""Batches of one shape: the length class of a text depends on the text alone."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from zerosearch_env.engines.dense.steady import Fillers, steady_batches

LIMIT = 50


def tokens(text: str) -> int:
    """Words and two special tokens, cut off at LIMIT."""
    return min(len(text.split()) + 2, LIMIT)


@given(st.lists(st.integers(0, LIMIT)), st.integers(2, 9))
def test_every_text_stands_once_in_a_batch_of_its_class(lengths: list[int], rows: int) -> None:
    fillers = Fillers(tokens)
    batches = list(steady_batches(lengths, fillers, rows))
    assert sorted(position for _, positions in batches for position in positions) == list(range(len(lengths)))
    for filler, positions in batches:
        assert 1 <= len(positions) < rows
        for position in positions:
            assert tokens(filler) >= lengths[position]
            assert tokens(filler) == tokens(Fillers(tokens).at_least(lengths[position]))


def test_fillers_grow_by_an_eighth_at_most_and_end_with_truncation() -> None:
    fillers = Fillers(lambda text: min(len(text.split()), 500))
    found = sorted({len(fillers.at_least(length).split()) for length in range(1, 501)})
    assert found[:5] == [4, 8, 12, 16, 20]
    assert all(later - earlier <= max(4, earlier // 8) for earlier, later in pairwise(found))
    assert found[-1] >= 500
    assert fillers.at_least(10_000) == fillers.at_least(500)


def test_a_model_that_measures_nothing_has_one_class() -> None:
    fillers = Fillers(lambda text: 0)
    assert [positions for _, positions in steady_batches([0, 0, 0], fillers, 3)] == [[0, 1], [2]]
