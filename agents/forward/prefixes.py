"""The prefix tree of several token sequences: what they have in common at their start is computed once.

Rollouts of one question begin with the same prompt, and often with the same first turn. In a causal model, equal
prefixes have equal hidden states. So a packed row holds the nodes of the tree instead of the sequences:

    sequence 0   p p p p p p a a a              node 0   p p p p p p     of all three
    sequence 1   p p p p p p b b b b b c c      node 1   a a a           of sequence 0, after node 0
    sequence 2   p p p p p p b b b b b d        node 2   b b b b b       of 1 and 2, after node 0
                                                node 3   c c             of 1, after nodes 0 and 2
    34 tokens in the sequences, 17 in the tree  node 4   d               of 2, after nodes 0 and 2

A node's tokens attend to the nodes before it and to themselves. Gradients of all sequences add up in a shared node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRAIN = 8
"""Common prefixes are rounded down to a multiple of this many tokens: a node costs a block of attention in each layer,
which is not worth it for a few tokens."""


@dataclass(frozen=True)
class Node:
    """A run of tokens that belongs to the same sequences."""

    tokens: slice
    """Its tokens in the packed row; never empty."""
    before: tuple[slice, ...] = ()
    """The tokens of the nodes before it, from the start of its sequences on."""


@dataclass(frozen=True)
class PrefixTree:
    """A packed row of `T` tokens that holds each common prefix once."""

    nodes: list[Node]
    """In the order of the row, each after the nodes before it."""
    origins_T: NDArray[np.int64]
    """The index of each token of the row in the concatenated sequences."""
    positions_T: NDArray[np.int64]
    """The position of each token in its sequences."""
    places: list[NDArray[np.int64]]
    """For each sequence, the places of its tokens in the row."""


def sort_by_prefix(sequences: Sequence[NDArray[Any]]) -> tuple[list[int], list[int]]:
    """The lexicographic order of the sequences, and how many tokens each shares with the one before it in that order.

    Any consecutive part of this order, as a tree, has the tokens of its first sequence, and of each later one all
    tokens except the shared ones.

    Returns:
        Indices of the sequences, and for each of these the number of shared tokens, a multiple of `GRAIN`; 0 for the
        first.
    """
    keys = [np.asarray(ids).astype(">i4").tobytes() for ids in sequences]  # compared as bytes, these are ordered by id
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shared = [_common(sequences[a], sequences[b]) for a, b in pairwise(order)]
    return order, [0] * bool(order) + [count // GRAIN * GRAIN for count in shared]


def _common(first: NDArray[Any], second: NDArray[Any]) -> int:
    """Length of the common prefix of two sequences."""
    count = min(len(first), len(second))
    differs = first[:count] != second[:count]
    return int(differs.argmax()) if differs.any() else count


def prefix_tree(ids: NDArray[Any], lengths: Sequence[int]) -> PrefixTree:
    """The prefix tree of some sequences.

    Sequences without a common prefix keep their order.

    Args:
        ids: token ids of all sequences, concatenated.
        lengths: number of tokens of each sequence, at least one.
    """
    ends = np.cumsum(lengths)
    order, shared = sort_by_prefix(np.split(ids, ends[:-1]))
    starts = ends - np.asarray(lengths)
    nodes: list[Node] = []
    runs: list[tuple[int, int, int]] = []  # of each node: a sequence, and the node's first and last position in it
    parts: list[list[slice]] = [[] for _ in lengths]
    for members, first, last in _nodes(order, shared, lengths):
        begin = nodes[-1].tokens.stop if nodes else 0
        tokens = slice(begin, begin + last - first)
        nodes.append(Node(tokens, tuple(parts[members[0]])))
        runs.append((members[0], first, last))
        for member in members:
            parts[member].append(tokens)
    positions = [np.arange(first, last) for _, first, last in runs]
    origins = [starts[index] + here for (index, _, _), here in zip(runs, positions, strict=True)]
    places = [np.concatenate([np.arange(part.start, part.stop) for part in own]) for own in parts]
    return PrefixTree(nodes, np.concatenate(origins), np.concatenate(positions), places)


def _nodes(
    order: Sequence[int], shared: Sequence[int], lengths: Sequence[int], depth: int = 0
) -> Iterator[tuple[Sequence[int], int, int]]:
    """The nodes from `depth` on of sequences that are equal up to there: members, first and last position."""
    if len(order) == 1:
        if lengths[order[0]] > depth:
            yield order, depth, lengths[order[0]]
        return
    deepest = min(shared[1:])
    if deepest > depth:
        yield order, depth, deepest
        yield from _nodes(order, shared, lengths, deepest)
        return
    cuts = [0, *(i for i in range(1, len(order)) if shared[i] == depth), len(order)]
    branches = [(order[a:b], shared[a:b]) for a, b in pairwise(cuts)]
    for branch, theirs in sorted(branches, key=lambda branch: min(branch[0])):
        yield from _nodes(branch, theirs, lengths, depth)
