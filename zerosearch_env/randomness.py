"""Counter-based randomness: every draw is a pure function of a seed and a path of integers.

There is no generator state, so results depend neither on the number of environments running in parallel nor on the
order in which searches return. The mixing function is splitmix64 (Steele, Lea and Flood, 2014). Its output is fixed by
its definition: it is the same on every machine and with every version of numpy.

Coupled draws: search k of an episode draws u = uniform(seed, k, 0) and is noisy if u < p. The draw does not depend on
the noise level p, so raising p keeps every noisy search noisy and only adds new ones:

    u of searches 0..4    0.12   0.81   0.33   0.05   0.64
    p = 0.25              noisy  -      -      noisy  -
    p = 0.50              noisy  -      noisy  noisy  -
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MUL_1 = 0xBF58476D1CE4E5B9
_MUL_2 = 0x94D049BB133111EB
_SPLIT = 0xD1B54A32D192ED03
_GOLDEN_U64, _MUL_1_U64, _MUL_2_U64 = map(np.uint64, (_GOLDEN, _MUL_1, _MUL_2))
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))


def mix(seed: int, *path: int) -> int:
    """A 64-bit integer derived from `seed` and a path of integers, for example (seed, search, document)."""
    state = seed & _MASK
    for part in path:
        state = (state + _GOLDEN + (part & _MASK) * _MUL_2) & _MASK
        state = ((state ^ (state >> 30)) * _MUL_1) & _MASK
        state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
        state ^= state >> 31
    state = (state + _GOLDEN) & _MASK  # the last part is 0
    state = ((state ^ (state >> 30)) * _MUL_1) & _MASK
    state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
    return state ^ (state >> 31)


def mix2(seed: int, first: int, second: int) -> int:
    """`mix(seed, first, second)` with the loop unrolled; the environment calls it once per search."""
    state = (seed + _GOLDEN + first * _MUL_2) & _MASK
    state = ((state ^ (state >> 30)) * _MUL_1) & _MASK
    state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
    state = ((state ^ (state >> 31)) + _GOLDEN + second * _MUL_2) & _MASK
    state = ((state ^ (state >> 30)) * _MUL_1) & _MASK
    state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
    state = ((state ^ (state >> 31)) + _GOLDEN) & _MASK
    state = ((state ^ (state >> 30)) * _MUL_1) & _MASK
    state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
    return state ^ (state >> 31)


def split(seed: int, number: int) -> int:
    """A child seed: a 64-bit integer derived from `seed` and a number, at a third of the cost of `mix`.

    It is one round of the mixer, that is, output `number` of splitmix64 started at `seed + _SPLIT`. Without this offset
    `uniform(split(seed, 0), 0)`, a draw from the child seed, would equal the parent's draw `uniform(seed, 0, 0)`.
    """
    state = (seed + _SPLIT + number * _GOLDEN) & _MASK
    state = ((state ^ (state >> 30)) * _MUL_1) & _MASK
    state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
    return state ^ (state >> 31)


def splits(seed: int, start: int) -> Iterator[int]:
    """`split(seed, number)` for `start` and every number after it, without an end."""
    base = (seed + _SPLIT + start * _GOLDEN) & _MASK
    while True:
        state = ((base ^ (base >> 30)) * _MUL_1) & _MASK
        state = ((state ^ (state >> 27)) * _MUL_2) & _MASK
        yield state ^ (state >> 31)
        base = (base + _GOLDEN) & _MASK


def uniform(seed: int, *path: int) -> float:
    """A float in [0, 1) with 53 random bits, derived like `mix`."""
    return (mix(seed, *path) >> 11) * 2.0**-53


def uniform2(seed: int, first: int, second: int) -> float:
    """`uniform(seed, first, second)`, computed with `mix2`."""
    return (mix2(seed, first, second) >> 11) * 2.0**-53


def mix_array(seed: int, counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`mix(seed, c)` for every counter c, vectorised. Returns an array of the shape of `counters`, dtype uint64."""
    # In place, since most arrays are small: another array takes longer to make than to fill.
    state = counters.astype(np.uint64)
    state *= _MUL_2_U64
    state += np.uint64(seed & _MASK)
    for _ in range(2):
        state += _GOLDEN_U64
        state ^= state >> _SHIFTS[0]
        state *= _MUL_1_U64
        state ^= state >> _SHIFTS[1]
        state *= _MUL_2_U64
        state ^= state >> _SHIFTS[2]
    return state


def text_seed(text: str) -> int:
    """A 64-bit integer derived from a string. Unlike `hash`, it is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def uniform_rows(seeds: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """`uniform(seed, counter)` elementwise for two arrays of equal shape. Returns that shape, dtype float64."""
    state = seeds.astype(np.uint64)
    with np.errstate(over="ignore"):
        for part in (counters.astype(np.uint64) * np.uint64(_MUL_2), np.uint64(0)):
            state = state + (np.uint64(_GOLDEN) + part)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(_MUL_1)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(_MUL_2)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
