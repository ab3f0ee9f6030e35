"""Training pairs as a list and as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_simulator import make_pairs

from zerosearch_agents.simulator.pairs import Pair, as_record
from zerosearch_env.transcripts import encode_line


@pytest.fixture
def pairs() -> list[Pair]:
    return make_pairs()


@pytest.fixture
def pairs_file(tmp_path: Path, pairs: list[Pair]) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"".join(encode_line(as_record(pair)) for pair in pairs))
    return path
