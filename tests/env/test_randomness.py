from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env.randomness import mix, mix2, mix_array, split, splits, text_seed, uniform, uniform2

integers = st.integers(-(2**70), 2**70)


def test_the_mixer_is_splitmix64() -> None:
    # the first outputs of the reference implementation from state 1234567
    golden, state, outputs = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(2):
        outputs.append(mix(state))
        state += golden
    assert outputs == [6457827717110365317, 3203168211198807973]


@settings(max_examples=60)
@given(integers, integers, integers)
def test_the_unrolled_mixer_is_the_mixer(seed: int, first: int, second: int) -> None:
    assert mix2(seed, first, second) == mix(seed, first, second)
    assert uniform2(seed, first, second) == uniform(seed, first, second)
    assert 0.0 <= uniform(seed, first, second) < 1.0


@settings(max_examples=30)
@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_the_array_mixer_is_the_mixer(seed: int, counters: list[int]) -> None:
    got = mix_array(seed, np.array(counters, dtype=np.uint64))
    assert got.tolist() == [mix(seed, counter) for counter in counters]


def test_draws_look_uniform_and_paths_do_not_meet() -> None:
    draws = np.array([uniform(seed, k, 0) for seed in range(100) for k in range(20)])
    assert draws.mean() == pytest.approx(0.5, abs=4 * (1 / 12) ** 0.5 / 2000**0.5)
    assert np.histogram(draws, bins=10, range=(0, 1))[0].min() > 140
    assert len({mix(seed, k, j) for seed in range(20) for k in range(20) for j in (*range(10), 1 << 32)}) == 4400
    assert mix(1) != mix(1, 0) != mix(1, 0, 0)


def test_seeds_to_hand_out_are_well_mixed_and_meet_nothing() -> None:
    seeds = [split(seed, k) for seed in range(1000) for k in range(8)]
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert split(-1, 0) == split(2**64 - 1, 0)
    bits = np.array(seeds, dtype=np.uint64)[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    assert abs(bits.mean(axis=0) - 0.5).max() < 4.5 * 0.5 / len(seeds) ** 0.5
    # what an engine draws from its seed has nothing to do with the draw that made the search noisy
    paths = [(seed, k) for seed in range(500) for k in range(4)]
    noise, drawn = [uniform(*path, 0) for path in paths], [uniform(split(*path), 0) for path in paths]
    assert abs(np.corrcoef(noise, drawn)[0, 1]) < 4 / 2000**0.5
    known = {mix(s, k, j) for s in range(100) for k in range(8) for j in range(8)} | {mix(s) for s in range(100)}
    assert len(known | set(seeds)) == len(known) + len(seeds)


def test_child_seeds_in_a_row_are_those_of_single_calls() -> None:
    for seed in (0, 1, -1, 2**64 - 1, 2**70):
        assert list(islice(splits(seed, 11200), 30)) == [split(seed, 11200 + number) for number in range(30)]


def test_texts_have_seeds_of_their_own() -> None:
    assert text_seed("a") == text_seed("a") != text_seed("b")
    assert 0 <= text_seed("\ud800 any text") < 2**64
