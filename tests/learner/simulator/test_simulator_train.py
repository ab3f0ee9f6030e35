"""`zerosearch simulator train`: steps, several processes, LoRA, resuming to the bit, what it refuses."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_simulator import killed_at_step, make_pairs, write_pairs
from small_simulator import small_run as config
from tiny import tiny_tokenizer
from two_processes import FORKS, run_in_two

from zerosearch_agents.config.lora import LoraShape
from zerosearch_agents.config.tune import TuneConfig
from zerosearch_agents.forward.mode import ForwardMode
from zerosearch_agents.forward.prefixes import sort_by_prefix
from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_agents.processes.workers import Workers
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.sft.step import RowPass
from zerosearch_agents.sft.tuner import Tuner, build_tuner, held_out_loss, step_rows, tune_step
from zerosearch_agents.simulator.cli import main
from zerosearch_agents.simulator.evaluation.evaluate import SimulatorEvalConfig, run_evaluate
from zerosearch_agents.simulator.pairs.pair import Pair
from zerosearch_agents.simulator.tuning.train import load_task, run_train
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.card import read_card
from zerosearch_env.errors import CheckpointError, ConfigError, DataError, TrainingError
from zerosearch_env.types import SearchRequest

pytestmark = pytest.mark.slow

TINY = ["--init", "tiny", "--tiny.hidden", "32", "--tiny.layers", "3", "--tiny.mlp", "48", "--tiny.vocab-size", "640"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random model in `save_pretrained` format."""
    shape = tiny_config(len(tiny_tokenizer()), hidden=32, layers=2, heads=2, mlp=48, context_tokens=2048)
    new_model(shape, seed=3).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def without_times(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(run / "metrics.jsonl")]


def test_a_run_learns_and_its_model_serves_and_is_evaluated(
    pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = config(pairs_file, epochs=8.0, eval_every=20, checkpoint_every=100, learning_rate=2e-2)
    run_train(done)
    rows = read_metrics(done.output / "metrics.jsonl")
    manifest = json.loads((done.output / "manifest.json").read_text())
    assert manifest["counts"]["stopped"] == "finished"
    assert manifest["counts"]["steps"] == len(rows) == 22
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    assert {"held_out", "held_out_useful", "held_out_noisy"} <= set(rows[19])
    assert rows[-1]["held_out"] < 0.7 * rows[0]["loss"]
    model = done.output / "model"
    card = read_card(model)
    assert card is not None
    assert (card.prompt_id, card.max_documents) == ("tuned-1", 2)
    assert manifest["complete"]
    assert manifest["input"]["sha256"] == card.pairs_sha256
    options = {"temperature": 0.0, "device": "cpu", "max_tokens": 24}
    engine = make_engine({"kind": "simulated", "argument": f"hf:{model}", **options})
    request = SearchRequest("garden 0", "Which tree grows in garden 0?", ("oak",), False, 1, 1)
    result = engine.search([request])[0]
    engine.close()
    assert result.failure is None
    assert "garden" in result.documents[0].text

    report_file = pairs_file.parent / "report.json"
    run_evaluate(
        SimulatorEvalConfig(
            json.dumps({"kind": f"simulated:hf:{model}", **options}),
            input=pairs_file,
            output=report_file,
            top_k=1,
            levels=(0.0, 1.0),
            attack_questions=1,
        )
    )
    report = json.loads(report_file.read_text())
    assert report["searches"] == 8
    assert report["levels"][1]["noisy_with_answer"]["mean"] in (None, 0.0)
    assert report["attacks"]["all"]["after"]["mean"] == 0.0
    assert "Style at noise 0" in capsys.readouterr().out


def make_tuner(run: TuneConfig) -> Tuner:
    return build_tuner(load_task(run, "cpu"), run, Workers(), "cpu")


def test_rows_of_the_steps() -> None:
    rows = [i for step in range(6) for i in step_rows(8, 4, 3, step)]
    assert sorted(rows[:8]) == sorted(rows[8:16]) == list(range(8))
    assert rows[:8] != rows[8:16]
    assert step_rows(8, 4, 3, 5) == rows[20:]
    assert sorted(step_rows(2, 5, 0, 0)[:4]) == [0, 0, 1, 1]


def gradients(pairs_file: Path, **options: object) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and weights after one plain step: the same gradient gives the same weights."""
    run = config(pairs_file, max_grad_norm=1e9, **options)
    tuner = make_tuner(replace(run, tiny=replace(run.tiny, vocab_size=400)))
    tuner = replace(tuner, optimizer=torch.optim.SGD(tuner.model.parameters(), lr=1.0))
    metrics = tune_step(tuner, 0)
    return metrics["loss"], {name: p.grad.clone() for name, p in tuner.model.named_parameters() if p.grad is not None}


def test_how_a_step_is_computed_changes_no_gradient(pairs_file: Path) -> None:
    loss, expected = gradients(pairs_file)
    for options in (
        {"micro_batch_tokens": 200},
        {"packing": "off"},
        {"packing": "sequences", "micro_batch_tokens": 600},
        {"gradient_checkpointing": True},
        {"packing": "off", "gradient_checkpointing": True},
    ):
        other_loss, found = gradients(pairs_file, **options)
        assert other_loss == pytest.approx(loss, rel=1e-5), options
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=f"{options}: {name}")
    short, found = gradients(pairs_file, dtype="bfloat16")
    assert short == pytest.approx(loss, rel=0.02)
    assert all(value.dtype == torch.float32 for value in found.values())


def test_forward_passes_hold_to_the_bound(pairs_file: Path) -> None:
    tuner = make_tuner(config(pairs_file))
    for packing in ("off", "sequences"):
        groups = RowPass(400, ForwardMode(packing)).passes(tuner.train)
        assert sum(map(len, groups)) == len(tuner.train)
        for group in groups:
            ids = [np.array(example.ids) for example in group]
            lengths = list(map(len, ids))
            packed = sum(lengths) - sum(sort_by_prefix(ids)[1])  # common prefixes go through the model once
            assert (packed if packing == "sequences" else len(group) * max(lengths)) <= 400


def test_held_out_loss_is_a_mean_over_tokens(pairs_file: Path) -> None:
    tuner = make_tuner(config(pairs_file))
    found = held_out_loss(tuner)
    tokens = {kind: sum(row.targets for row in rows) for kind, rows in tuner.held_out.items()}
    mean = (found["held_out_useful"] * tokens["useful"] + found["held_out_noisy"] * tokens["noisy"]) / sum(
        tokens.values()
    )
    assert found["held_out"] == pytest.approx(mean)
    assert held_out_loss(replace(tuner, held_out={})) == {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TuneConfig:
    """A run of four steps that nothing interrupts; the runs that are compared with it take the same options."""
    file = write_pairs(make_pairs(), tmp_path_factory.mktemp("whole"))
    options = config(file, batch_size=5, micro_batch_tokens=400, epochs=1.25)
    run_train(options)
    return options


def command(run: TuneConfig, output: Path) -> list[str]:
    """The options of `whole` as a command, with another output."""
    options = ["--input", str(run.input), "--output", str(output), "--device", "cpu", "--batch-size", "5"]
    options += ["--micro-batch-tokens", "400", "--epochs", "1.25", "--checkpoint-every", "2", "--eval-every", "2"]
    return ["train", *options, *TINY, "--tiny.context-tokens", "2048"]


def test_stopped_and_resumed_is_the_same_to_the_bit(whole: TuneConfig, tmp_path: Path) -> None:
    parts = replace(whole, output=tmp_path / "parts")
    sessions = 0
    while run_train(replace(parts, max_seconds=0.02))["stopped"] == "time":
        sessions += 1
        assert not (parts.output / "model").exists()
        assert sessions < 50
    assert sessions >= 1
    assert without_times(parts.output) == without_times(whole.output)
    for name, value in weights(whole.output).items():
        assert torch.equal(weights(parts.output)[name], value), name
    again = run_train(parts)
    assert again["steps"] == 4
    assert len(read_metrics(parts.output / "metrics.jsonl")) == 4


def test_killed_and_resumed_is_the_same_to_the_bit(whole: TuneConfig, tmp_path: Path) -> None:
    """It is killed with one step more in its metrics than in its checkpoint."""
    run = tmp_path / "killed"
    child = FORKS.Process(target=killed_at_step, args=(3, *command(whole, run)))
    child.start()
    child.join(100)
    assert child.exitcode == -signal.SIGKILL
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert not (run / "model").exists()
    assert main(command(whole, run)) == 0
    assert without_times(run) == without_times(whole.output)
    for name, value in weights(whole.output).items():
        assert torch.equal(weights(run)[name], value), name


@pytest.mark.timeout(400)
def test_two_processes_are_one(whole: TuneConfig, tmp_path: Path) -> None:
    both = tmp_path / "both"
    out = run_in_two("simulator", *command(whole, both))
    expected, found = without_times(whole.output), without_times(both)
    assert len(found) == len(expected) == 4
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert out.count("train: ") == 1
    # AdamW makes a step of full size from a gradient that is only rounding, so a few weights may differ by whole steps.
    one, other = (
        torch.cat([value.flatten() for _, value in sorted(weights(run).items())]) for run in (whole.output, both)
    )
    difference = (one - other).abs()
    assert (difference > 1e-5).float().mean() < 1e-3
    assert difference.max() < 2 * whole.peak * len(expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_and_its_resumption(pairs_file: Path, base: Path, dtype: str) -> None:
    pytest.importorskip("peft")
    options = {"init": None, "model": base, "lora": LoraShape(rank=4), "learning_rate": 3e-2}
    run = config(pairs_file, dtype=dtype, batch_size=2, epochs=0.5, **options)
    done = run_train(run)
    rows = read_metrics(pairs_file.parent / "run" / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.98 * rows[0]["loss"]
    assert done["trained_parameters"] < 0.5 * done["parameters"]
    before, after = load_file(base / "model.safetensors"), weights(pairs_file.parent / "run")
    assert before.keys() == after.keys()
    assert after["model.embed_tokens.weight"].dtype == getattr(torch, dtype)
    changed = {name for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])}
    assert all(name.endswith("proj.weight") for name in changed)
    assert len(changed) == 14
    if dtype == "bfloat16":
        return  # what follows does not depend on the type of the frozen weights
    parts = replace(run, output=pairs_file.parent / "parts")
    sessions = 0
    while run_train(replace(parts, max_seconds=0.02))["stopped"] == "time":
        sessions += 1
        assert sessions < 50
    assert sessions >= 1
    for name, value in after.items():
        assert torch.equal(weights(parts.output)[name], value), name


def test_full_tuning_of_a_model(pairs_file: Path, base: Path) -> None:
    done = run_train(config(pairs_file, init=None, model=base, dtype="bfloat16", batch_size=2, epochs=0.2))
    assert done["trained_parameters"] == done["parameters"]
    assert weights(pairs_file.parent / "run")["model.embed_tokens.weight"].dtype == torch.bfloat16
    card = read_card(done["model"])
    assert card is not None
    assert card.base == str(base)
    assert read_card(base) is None


def test_learning_rate() -> None:
    run = TuneConfig(input=Path("x"), init="tiny", learning_rate=1.0, warmup_share=0.1, final_fraction=0.1)
    assert [run.rate(step, 100) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert run.rate(55, 100) == pytest.approx(0.55)
    assert replace(run, decay="linear").rate(55, 100) == pytest.approx(0.55)
    assert replace(run, decay="constant").rate(99, 100) == 1.0
    assert TuneConfig(input=Path("x"), model=Path("m")).peak == 1e-6
    assert TuneConfig(input=Path("x"), model=Path("m"), lora=LoraShape(rank=8)).peak == 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": None}, "--model DIRECTORY or --init tiny"),
        ({"model": Path("m")}, "not both"),
        ({"lora": LoraShape(rank=4)}, "cannot be combined with --init"),
        ({"epochs": 0.0}, "epochs must be a finite number above 0"),
        ({"warmup_share": 1.5}, "warmup_share must be a number of at least 0 and at most 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"eval_pairs": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be(pairs_file: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(pairs_file, **options)


def test_another_run_is_not_overwritten(pairs_file: Path) -> None:
    first = config(pairs_file, epochs=0.25)
    run_train(first)
    with pytest.raises(ConfigError, match=r"epochs: 0\.25 -> 0\.5"):
        run_train(replace(first, epochs=0.5))
    assert run_train(replace(first, epochs=0.5, fresh=True))["steps"] == 2
    (first.output / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="no manifest"):
        run_train(first)


def test_pairs_that_cannot_be(pairs_file: Path, pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        run_train(config(tmp_path / "nowhere.jsonl"))
    with pytest.raises(DataError, match="more than 50 tokens"):
        run_train(config(pairs_file, max_tokens=50))
    lines = pairs_file.read_text().splitlines()
    held_out = [line for line in lines if '"test"' in line]
    pairs_file.write_text("\n".join(held_out) + "\n")
    with pytest.raises(DataError, match="no pair with split 'train'"):
        run_train(config(pairs_file, fresh=True))
    pairs_file.write_text("\n".join([lines[0], lines[1].replace("tuned-1", "few-shot-1")]) + "\n")
    with pytest.raises(DataError, match="mixes the prompts few-shot-1, tuned-1"):
        run_train(config(pairs_file, fresh=True))


def test_a_model_that_is_not_there(pairs_file: Path) -> None:
    with pytest.raises(CheckpointError):
        run_train(config(pairs_file, init=None, model=pairs_file.parent / "nothing"))


def test_a_loss_that_is_no_number(pairs_file: Path) -> None:
    tuner = make_tuner(config(pairs_file))
    with torch.no_grad():
        tuner.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1: the loss is nan"):
        tune_step(tuner, 0)
