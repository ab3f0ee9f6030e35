"""Training pairs that are made in a moment, as a list and as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from zerosearch_agents.simulator.pairs import Pair, as_record
from zerosearch_env.transcripts import encode_line
from zerosearch_env.types import Document

TREES = "oak ash elm birch larch alder hazel rowan maple poplar willow cedar".split()


def make_pairs(count: int = 24) -> list[Pair]:
    """Useful pairs name the tree, noisy ones another; every sixth is held out."""
    pairs = []
    for i in range(count):
        tree, other = TREES[i % len(TREES)], TREES[(i + 5) % len(TREES)]
        noisy = i % 2 == 1
        texts = [f"In garden {i} grows the {other if noisy else tree}.", "It is " + "very " * (i % 7) + "old."]
        documents = tuple(Document("", text) for text in texts[: 1 + i % 3 // 2])
        part = "test" if i % 6 >= 4 else "train"
        pairs.append(
            Pair("tuned-1", f"Which tree grows in garden {i}?", (tree,), f"garden {i}", noisy, documents, part)
        )
    return pairs


@pytest.fixture
def pairs() -> list[Pair]:
    return make_pairs()


@pytest.fixture
def pairs_file(tmp_path: Path, pairs: list[Pair]) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(encode_line(as_record(pair)) for pair in pairs))
    return path
