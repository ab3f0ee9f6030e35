from __future__ import annotations

import numpy as np
import pytest

from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_benchmarks.speed import sampler as benchmark


def test_the_least_work_is_that_of_the_published_workload() -> None:
    assert benchmark._flops(benchmark._lengths("equal")) == pytest.approx(206.9e9, rel=0.01)
    varied = benchmark._lengths("varied")
    assert varied.shape == (4, 32)
    assert (varied.min(), varied.max()) == (16, 112)


def test_both_sides_sample_the_same_number_of_tokens() -> None:
    model = new_model(tiny_config(benchmark.VOCABULARY, hidden=8, layers=1, heads=2, mlp=8))
    model.generation_config.eos_token_id = None
    lengths = np.random.default_rng(0).integers(1, 4, (benchmark.TURNS, benchmark.EPISODES))
    work = benchmark.multi_turn(lengths, prompt=10, document=20, vocabulary=benchmark.VOCABULARY)
    assert benchmark.sampler_case(model, work)() == lengths.sum()
    assert benchmark.generate_case(model, work)() == lengths.sum()
