"""Training pairs as a list and as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_simulator import make_pairs, write_pairs

from zerosearch_agents.simulator.pairs.pair import Pair


@pytest.fixture
def pairs() -> list[Pair]:
    return make_pairs()


@pytest.fixture
def pairs_file(tmp_path: Path, pairs: list[Pair]) -> Path:
    return write_pairs(pairs, tmp_path)
