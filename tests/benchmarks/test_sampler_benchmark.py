from __future__ import annotations

import json

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


def test_a_real_model_plays_every_turn_to_its_length(tmp_path, monkeypatch, capsys) -> None:
    for name, size in {"EPISODES": 3, "LENGTH": 2, "PROMPT": 5, "DOCUMENT": 7}.items():
        monkeypatch.setattr(benchmark, f"MODEL_{name}", size)
    config = tiny_config(300, hidden=8, layers=1, heads=2, mlp=8, eos_token_id=list(range(300)))
    new_model(config).save_pretrained(tmp_path / "model")  # every token would end a turn
    output = tmp_path / "record.json"
    assert benchmark.main(["--model", str(tmp_path / "model"), "--rounds", "1", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["timings"]["sampler"]["items"] == 3 * 3 * 2
    assert record["model"] == "model"
    assert f"ratio {record['ratio']:.2f}" in capsys.readouterr().out
