from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks import rollouts as benchmark


def test_the_workload_is_the_published_one() -> None:
    load = benchmark.make_workload(0, 0.025)
    assert (load.turns.min(), load.turns.max(), load.generate.shape) == (1, 5, (64, 5))
    bounds = [benchmark.lower_bound(benchmark.make_workload(seed, 0.025)) for seed in range(20)]
    longest, work = (sorted(values) for values in zip(*bounds, strict=True))
    assert (longest[9] + longest[10]) / 2 == pytest.approx(0.493, abs=0.001)
    assert (work[9] + work[10]) / 2 == pytest.approx(0.282, abs=0.001)


def test_simulated_time_reaches_the_goals(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.json"
    assert benchmark.main(["--seeds", "20", "--real-seeds", "0", "--output", str(file)]) == 0
    found = json.loads(file.read_text("utf-8"))["simulated"]
    assert found["ours / lower bound"] <= 1.08
    assert found["lock-step / ours"] >= 2.4
    assert found["stream: lock-step / ours"] >= 4


def test_real_and_simulated_time_play_the_same_episodes() -> None:
    load = benchmark.make_workload(0, 0.002)
    assert benchmark.real(load) >= benchmark.simulated(load) * 0.99
    assert benchmark.lock_step_real(load) >= benchmark.lock_step(load) * 0.99
