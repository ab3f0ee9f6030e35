"""Training pairs as a list and as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_simulator import make_pairs, small_run

from zerosearch_agents.simulator.pairs.pair import Pair, as_record
from zerosearch_agents.simulator.tuning.train import run_train
from zerosearch_env.records.transcripts import encode_line


@pytest.fixture
def pairs() -> list[Pair]:
    return make_pairs()


@pytest.fixture
def pairs_file(tmp_path: Path, pairs: list[Pair]) -> Path:
    return _write(pairs, tmp_path)


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has learnt the pairs, with the pairs; treat it as read-only."""
    file = _write(make_pairs(), tmp_path_factory.mktemp("learnt"))
    run_train(small_run(file, epochs=40.0, eval_every=20, checkpoint_every=100, learning_rate=5e-3), command="x")
    return file.parent / "run"


def _write(pairs: list[Pair], folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    path.write_bytes(b"".join(encode_line(as_record(pair)) for pair in pairs))
    return path
