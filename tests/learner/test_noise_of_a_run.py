"""Kinds of noise in a training run: stages, evaluations with a kind of their own, the ternary reward, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from zerosearch_agents.config.train import (
    CurriculumConfig,
    EnvironmentConfig,
    EvaluationConfig,
    OutputConfig,
    TrainConfig,
    dump_config,
    parse_config,
)
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training.trainer import StepReport, train
from zerosearch_env.records.transcripts import read_transcripts

TIMES = {"seconds", "tokens_per_second", "rollout_seconds", "update_seconds", "held_out_seconds"}


def _config(folder: Path) -> TrainConfig:
    return tiny.tiny_train_config(
        folder,
        steps=4,
        environment=EnvironmentConfig(
            max_turns=2, top_k=2, reward="ternary", noise_kind=("empty", "empty=0.5,outage=0.5")
        ),
        curriculum=CurriculumConfig(schedule="constant", end=1.0),
        files=OutputConfig(checkpoint_every=1, transcripts_every=1, transcripts=16),
        evaluation=EvaluationConfig(every=4, questions=3, noise=(1.0,), noise_kind="irrelevant"),
    )


def _records(config: TrainConfig) -> list[dict[str, float]]:
    records = read_metrics(Path(config.output) / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def test_kinds_survive_toml():
    environment = EnvironmentConfig(noise_kind=("garbled:0.8", "distractor=0.5,empty=0.5"))
    config = TrainConfig(environment=environment, evaluation=EvaluationConfig(noise_kind="outage=0.5,empty=0.5"))
    assert parse_config(dump_config(config)) == config
    assert parse_config("").environment.noise_kind == ("distractor",)


@pytest.mark.slow
def test_a_run_moves_through_its_kinds_and_a_resumed_run_does_the_same(tmp_path):
    config = _config(tmp_path)
    train(config, dataset=tiny.tiny_dataset())
    played = list(read_transcripts(Path(config.output) / "transcripts.jsonl"))
    kinds: dict[str, set[str]] = {}
    mixtures: dict[str, set[str]] = {}
    for record in played:
        part = "evaluation" if record["extra"].get("held_out") else f"step {record['extra']['step']}"
        searches = [search for turn in record["turns"] for search in turn["searches"]]
        mixtures.setdefault(part, set()).add(record["noise_kind"])
        kinds.setdefault(part, set()).update(search["kind"] for search in searches if search["kind"])
        assert record["scores"]["reward"] in (1.0, -1.0)
    first, second = {"empty"}, {"empty=0.5,outage=0.5"}
    assert [mixtures[f"step {step}"] for step in range(1, 5)] == [first, first, second, second]
    assert mixtures["evaluation"] == {"irrelevant"}
    assert kinds["step 1"] == {"empty"}
    whole = _records(config)
    assert all({"misled", "abstained", "hallucinated"} <= set(record) for record in whole[1:])
    assert "held_out_hallucinated_1" in whole[0]

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    interrupted = replace(config, output=str(tmp_path / "interrupted"))
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, dataset=tiny.tiny_dataset(), callback=stop)
    train(interrupted, dataset=tiny.tiny_dataset(), resume=True)
    assert _records(interrupted) == whole
