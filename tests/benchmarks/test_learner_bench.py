"""The learner's benchmark at a tiny size: its arithmetic, and that both sides do the same work."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from zerosearch_benchmarks.speed.learner import bench as learner
from zerosearch_benchmarks.speed.learner.work import WorkSpec, flops, make_work, mask_of

pytestmark = pytest.mark.slow


def test_the_work_is_that_of_the_published_workload() -> None:
    spec = WorkSpec(sequences=64)
    work = make_work(spec)
    lengths = [len(p) + len(c) for p, c in zip(work.prompts, work.completions, strict=True)]
    assert work.tokens == 18_715
    assert flops(spec, lengths, sum(map(sum, work.masks))) / work.tokens == pytest.approx(44.4e6, rel=0.01)
    assert np.allclose(work.advantages.reshape(-1, 8).mean(1), 0)


def test_a_quarter_of_the_search_work_is_the_policys() -> None:
    work = make_work(WorkSpec(sequences=64, search=True))
    assert sum(map(sum, work.masks)) / work.tokens == pytest.approx(0.25, abs=0.03)
    assert all(mask[-1] == 1 for mask in work.masks)
    assert mask_of(100, True)[:5] == [1, 1, 1, 1, 0]


@pytest.mark.timeout(600)  # two processes that load torch, one of them TRL
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed (extra trl)")
def test_both_sides_have_the_same_gradient(tmp_path) -> None:
    """On the dense work; tests/benchmarks/test_gpu_bench.py has the search work."""
    output = tmp_path / "learner.json"
    size = "--sequences 8 --longest 80 --vocabulary 300 --rounds 1 --no-memory --peer-rows 4".split()
    assert learner.main(["--cases", "float32", *size, "--output", str(output)]) == 0
    case = json.loads(output.read_text())["cases"]["float32"]
    assert case["ours"]["gradient_norm"] == pytest.approx(case["trl"]["gradient_norm"], rel=0.02)
    assert case["ratio"] > 0
    assert case["ours"]["peak_mib"] > 100
