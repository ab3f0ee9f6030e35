from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerosearch_benchmarks.speed import rollouts as benchmark


def test_the_workload_is_the_published_one() -> None:
    load = benchmark.make_workload(0, 0.025)
    assert (load.turns.min(), load.turns.max(), load.generate.shape) == (1, 5, (64, 5))
    bounds = [benchmark.lower_bound(benchmark.make_workload(seed, 0.025)) for seed in range(20)]
    longest, work = (sorted(values) for values in zip(*bounds, strict=True))
    assert (longest[9] + longest[10]) / 2 == pytest.approx(0.493, abs=0.001)
    assert (work[9] + work[10]) / 2 == pytest.approx(0.282, abs=0.001)


@pytest.mark.slow
def test_simulated_time_reaches_the_goals(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.json"
    assert benchmark.main(["--seeds", "20", "--real-seeds", "0", "--output", str(file)]) == 0
    found = json.loads(file.read_text("utf-8"))["simulated"]
    assert found["ours / lower bound"] <= 1.08
    assert found["lock-step / ours"] >= 2.4
    assert found["stream: lock-step / ours"] >= 4
    steps = json.loads(file.read_text("utf-8"))["steps"]
    assert [row["update / rollouts"] for row in steps] == [0.5, 1.0, 2.0]
    assert steps[1]["max_staleness 1"] >= 1.5


def test_real_and_simulated_time_play_the_same_episodes() -> None:
    load = benchmark.make_workload(0, 0.002)
    assert benchmark.real(load) >= benchmark.simulated(load) * 0.99
    assert benchmark.lock_step_real(load) >= benchmark.lock_step(load) * 0.99


def test_steps_that_run_ahead() -> None:
    """One behind the other without running ahead; with it the updates, and the longest of what is left, remain."""
    loads = [benchmark.make_workload(seed, 0.5) for seed in range(3)]
    alone = [benchmark.simulated(load) for load in loads]
    assert benchmark.steps_of_training(loads, 0, 7.0) == pytest.approx(sum(alone) + 3 * 7.0)
    first = benchmark.steps_of_training(loads[:1], 1, 0.0)
    assert first == pytest.approx(alone[0])
    together = benchmark.steps_of_training(loads, 2, 1e4)
    assert 3e4 + first <= together <= 3e4 + 2 * first  # the others were there before their updates
