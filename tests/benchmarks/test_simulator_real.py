from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zerosearch_agents.config.train import TrainConfig
from zerosearch_agents.config.tune import TuneConfig
from zerosearch_agents.simulator.evaluation.evaluate import SimulatorEvalConfig
from zerosearch_agents.simulator.evaluation.measure import Answers, level_report
from zerosearch_agents.simulator.pairs.extract import ExtractConfig
from zerosearch_agents.simulator.pairs.label import LabelConfig
from zerosearch_benchmarks.learning.real_llm.stages import Data
from zerosearch_benchmarks.learning.simulator_real import bench, stages, table
from zerosearch_benchmarks.learning.simulator_real.stages import SMOKE, Sizes
from zerosearch_benchmarks.learning.stages import Stage
from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError


@pytest.fixture
def listed(tmp_path: Path) -> list[Stage]:
    for name in Data.FILES:
        (tmp_path / name).write_text("{}\n", "utf-8")
    data, runs = Data(tmp_path), tmp_path / "runs"
    return [
        *stages.simulator_stages(tmp_path / "model", tmp_path / "real.jsonl", Sizes(), runs, "bfloat16"),
        *stages.policy_stages(tmp_path / "warm", data, Sizes(), runs, 3, "bfloat16"),
    ]


def test_every_stage_is_a_command_that_is_understood(listed: list[Stage]) -> None:
    assert len({stage.output for stage in listed}) == len(listed)
    configs = (
        LabelConfig,
        ExtractConfig,
        SimulatorEvalConfig,
        TuneConfig,
        SimulatorEvalConfig,
        TrainConfig,
        TrainConfig,
    )
    for stage, config in zip(listed, configs, strict=False):
        words = 2 if stage.command[0] == "simulator" else 1
        read_options(config, [*stage.command[words:], *stage.speed], "zerosearch")
    assert listed[-1].command[0] == "eval"


def test_the_two_policies_differ_in_their_engine_alone_and_are_tested_on_the_same(listed: list[Stage]) -> None:
    one, other, test = listed[-3:]
    differing = [(a, b) for a, b in zip(one.command, other.command, strict=True) if a != b]
    assert [kind for pair in differing for kind in pair] == [
        stages.simulated(one.output.parent / "tuned" / "model"),
        f"corpus:{one.output.parent.parent / 'wikipedia_passages.jsonl'}",
        str(one.output),
        str(other.output),
    ]
    assert test.command.count("--engine") == 1
    assert test.command[test.command.index("--engine") + 1].startswith("corpus:")


def share(mean: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "low": low, "high": high, "n": 60}


def report(useful: float, document: str) -> dict[str, Any]:
    figure = {key: share(0.01, 0.0, 0.02) for key in ("words", "word_pairs", "character_triples", "length")}
    counts = dict.fromkeys(("completions", "resamples", "redactions", "unusable", "cache_hits"), 0)
    counts |= {"useful_sets": 60, "misses": 45, "noisy_sets": 60, "leaks": 3}
    level = level_report(0.0, Answers([], [], counts, [0], [1.0])) | {
        "searches": 60,
        "failed": 1,
        "useful_with_answer": share(useful, useful - 0.1, useful + 0.1),
        "noisy_with_answer": share(0.0, 0.0, 0.06),
    }
    return {
        "questions": 25,
        "levels": [level, level],
        "style": {"levels": [{"engine": figure}, {"engine": figure}]},
        "attacks": {"all": {"searches": 40, "after": share(0.0, 0.0, 0.09)}},
        "examples": [{"noisy": False, "query": "a lake", "documents": [document], "real": ["Real one."]}],
    }


def record() -> dict[str, Any]:
    em = {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 150}
    return {
        "pairs": {"train_useful": 311, "train_noisy": 311},
        "fitness": {
            "before": {"fit": False, "usable": 4, "answered": 0, "leaks": 1, "line": "long"},
            "after": {"fit": True, "usable": 4, "answered": 2, "leaks": 0, "line": "long"},
        },
        "before": report(0.2, "Chat."),
        "after": report(0.6, "A snippet."),
        "policies": [
            {"policy": name, "noise": noise, "em": em, "searches": 1.5}
            for name in ("warm", "bm25")
            for noise in (0.0, 0.5)
        ],
        "training": {"policy trained on bm25": [{"step": 0}, {"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.75}]},
    }


def test_the_tables_have_before_and_after_the_policies_and_documents() -> None:
    text = table.markdown(record())
    for line in (
        "622 training pairs, 60 held-out searches of 25 questions per noise level.",
        "| useful sets with an answer, % | 20 [10, 30] | 60 [50, 70] |",
        "| after it, % | 0 [0, 6] | 0 [0, 6] |",
        "| with what was sought, before resampling, % | 25 [16, 37] | 25 [16, 37] |",
        "| noisy sets with an answer, before the guard, % | 5 [2, 14] | 5 [2, 14] |",
        "| probe of four searches | not fit: 4 usable, 0 of 2 useful with the answer, 1 of 2 noisy with a leak | "
        "fit: 4 usable, 2 of 2 useful with the answer, 0 of 2 noisy with a leak |",
        "| warm | 80 [70, 90] (1.50) | 80 [70, 90] (1.50) |",
        "Reward of the steps, policy trained on bm25: 0.50, 0.75.",
        "  - as downloaded: Chat.",
        "  - real: Real one.",
    ):
        assert line in text


def test_a_model_that_is_not_fit_has_no_policies() -> None:
    assert "## Policies" not in table.markdown({k: v for k, v in record().items() if k not in ("policies", "training")})


def test_missing_files_are_named(tmp_path: Path) -> None:
    options = [f"--{name}={tmp_path / name}" for name in ("model", "trajectories", "policy", "data")]
    with pytest.raises(ConfigError, match=r"--model: .*model does not exist"):
        bench.main([*options, f"--output={tmp_path / 'record.json'}"])


def test_the_smoke_run_trains() -> None:
    assert SMOKE.steps == 1
    assert json.loads(stages.simulated(Path("m"))) == {"kind": "simulated:hf:m", "max_tokens": 80, "dtype": "bfloat16"}
