"""`zerosearch sft`: a policy learns an episode's form, runs resume to the bit, what it refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_policy

from zerosearch_agents.config.lora import LoraShape
from zerosearch_agents.config.sft import SftConfig
from zerosearch_agents.policy import policy as policy_module
from zerosearch_agents.policy.policy import load_policy, save_policy
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.runs.output import transcript_files
from zerosearch_agents.sft import tuner
from zerosearch_agents.sft.cli import main
from zerosearch_agents.sft.policy import finished_episodes, held_out_questions, load_task, run_sft
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import CheckpointError, ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record
from zerosearch_env.types import Document, Question, StopReason

ENGINE = ConstantEngine((Document("Letter", "the letter is k"),))


def demonstration(number: int, protocol: str = "zerosearch") -> dict:
    """A finished episode: one search, then the answer."""
    rules = make_rules(protocol=protocol, prompt_template="Question: {question}\n", max_turns=2, top_k=1)
    episode = Episode(Question(f"q{number}", f"letter {number}", ("k",)), rules)
    request = episode.advance(rules.protocol.render_search(f"letter {number}"))
    episode.observe(ENGINE.search([request])[0])
    episode.advance(rules.protocol.render_answer("k"))
    return transcript_record(episode, agent="demos")


def write(path: Path, records: list[dict]) -> Path:
    with TranscriptWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy and twelve demonstrations."""
    folder = tmp_path_factory.mktemp("sft")
    save_policy(tiny_policy(turn_tokens=32), folder / "base")
    write(folder / "demos.jsonl", [demonstration(number) for number in range(12)])
    return folder


def config(folder: Path, output: Path, **options) -> SftConfig:
    base = {"policy": str(folder / "base"), "input": (folder / "demos.jsonl",), "output": output, "held_out": 0.25}
    base |= {"batch_size": 4, "epochs": 4.0, "learning_rate": 2e-2, "device": "cpu", "workers": 1, "eval_every": 5}
    return SftConfig(**{**base, "max_turns": 2, "top_k": 1, **options})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "policy" / "model.safetensors")


def without_times(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(folder: Path) -> SftConfig:
    """A run that nothing interrupts."""
    options = config(folder, folder / "whole")
    run_sft(options, command="zerosearch sft")
    return options


@pytest.mark.slow
def test_a_policy_learns_and_has_the_card_of_the_run(whole: SftConfig) -> None:
    rows = read_metrics(whole.output / "metrics.jsonl")
    assert len(rows) == 9
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["held_out"] < 0.5 * rows[0]["loss"]
    assert [row["step"] for row in rows if "held_out" in row] == [5, 9]
    manifest = json.loads((whole.output / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["stage"] == "sft"
    counts = manifest["counts"]
    assert (counts["train_episodes"], counts["held_out_episodes"], counts["too_long"]) == (9, 3, 0)
    policy = load_policy(whole.output / "policy")
    assert (policy.card.protocol, policy.card.prompt_template) == ("zerosearch", "{question}\n")
    assert (policy.card.max_turns, policy.card.top_k, policy.card.turn_tokens) == (2, 1, 32)
    assert policy.model.config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same_to_the_bit(whole: SftConfig, tmp_path: Path) -> None:
    parts = replace(whole, output=tmp_path, max_seconds=0.02)
    sessions = 0
    while run_sft(parts)["stopped"] == "time":
        sessions += 1
        assert not (tmp_path / "policy").exists()
        assert sessions < 50
    assert sessions >= 1
    assert without_times(tmp_path) == without_times(whole.output)
    for name, value in weights(whole.output).items():
        assert torch.equal(weights(tmp_path)[name], value), name


@pytest.mark.slow
def test_an_interrupt_saves_and_the_same_command_continues(
    whole: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, run = tuner.tune_step, replace(whole, output=tmp_path)

    def interrupted(state: tuner.Tuner, number: int) -> dict[str, float]:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(state, number)

    with monkeypatch.context() as patch:
        patch.setattr(tuner, "tune_step", interrupted)
        stopped = run_sft(run)
    assert (stopped["stopped"], stopped["steps"]) == ("interrupt", 4)
    assert not json.loads((tmp_path / "manifest.json").read_text())["complete"]
    expected = json.loads((whole.output / "manifest.json").read_text())["counts"]
    for _ in range(2):  # a finished run has the same figures if it is started again
        counts = run_sft(run)
        assert (counts["steps"], counts["stopped"]) == (9, "finished")
        assert [counts[n] for n in ("loss", "held_out")] == pytest.approx(
            [expected[n] for n in ("loss", "held_out")], 1e-3
        )
    for name, value in weights(whole.output).items():
        assert torch.equal(weights(tmp_path)[name], value), name


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_workers_are_one(whole: SftConfig, tmp_path: Path) -> None:
    run_sft(replace(whole, output=tmp_path, workers=2))
    for one, other in zip(without_times(whole.output), without_times(tmp_path), strict=True):
        assert other == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_a_full_disk_at_the_end_loses_no_step(
    whole: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = replace(whole, output=tmp_path, epochs=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(policy_module, "_write_weights", full)
        with pytest.raises(CheckpointError, match=r"could not be written: OSError: .*No space left"):
            run_sft(run)
    assert not (tmp_path / "policy").exists()
    before = (tmp_path / "metrics.jsonl").read_text()
    assert run_sft(run)["stopped"] == "finished"
    assert (tmp_path / "policy" / "zerosearch.json").is_file()
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_adapters_are_merged(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    done = run_sft(config(folder, tmp_path, lora=LoraShape(rank=4), epochs=1.0))
    assert done["trained_parameters"] < 0.5 * done["parameters"]
    before, after = load_file(folder / "base" / "model.safetensors"), weights(tmp_path)
    assert before.keys() == after.keys()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {n for n in before if "proj.weight" in n}


@pytest.mark.slow
def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--policy", str(folder / "base"), "--input", str(folder / "demos.jsonl"), "--output", str(tmp_path)]
    assert main([*options, "--prompt-template", "Q: {question}\n", "--turn-tokens", "40", "--workers", "1"]) == 0
    out, err = capsys.readouterr()
    assert "11 episodes of " in out
    assert "1 held out" in out
    assert f"policy   {tmp_path / 'policy'}" in out
    assert "steps 2/2" in err
    assert "tokens/s" in err
    card = json.loads((tmp_path / "policy" / "zerosearch.json").read_text())
    assert (card["prompt_template"], card["turn_tokens"]) == ("Q: {question}\n", 40)
    assert "| Episodes | 11 of demos.jsonl |" in (tmp_path / "policy" / "README.md").read_text("utf-8")
    with pytest.raises(ConfigError, match="turn_tokens: 40 -> 32"):
        main([*options, "--prompt-template", "Q: {question}\n", "--turn-tokens", "32", "--workers", "1"])


def test_a_failed_start_blocks_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of protocol 'zerosearch', but the policy plays 'search-r1'"):
        run_sft(config(folder, tmp_path, protocol="search-r1"))
    with pytest.raises(ConfigError, match="chat template"):
        run_sft(config(folder, tmp_path, chat="on"))
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_what_does_not_fit_is_left_out(folder: Path, tmp_path: Path) -> None:
    long = demonstration(20)
    long["turns"][0]["action_text"] = "<search>" + "letter " * 40 + "</search>"
    file = write(tmp_path / "more.jsonl", [demonstration(21), long])
    task = load_task(config(folder, tmp_path, input=(folder / "demos.jsonl", file), held_out=0.0), "cpu")
    assert (len(task.rows), task.counts["too_long"]) == (13, 1)
    with pytest.raises(DataError, match=r"no episode of .*demos\.jsonl fits: the shortest has"):
        load_task(config(folder, tmp_path, context_tokens=20), "cpu")
    with pytest.raises(DataError, match=r"the longest turn \d+ where 4 fit \(--turn-tokens\)"):
        load_task(config(folder, tmp_path, turn_tokens=4), "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": None}, "record 2: every turn must have action_text and observation"),
        ({"turns": [{"action_text": "x"}]}, "record 2: every turn must have action_text and observation"),
        ({"question": "who?"}, r"record 2: question must have a text, got 'who\?'"),
        ({"stop_reason": "boredom"}, "record 2: unknown stop_reason 'boredom'"),
    ],
)
def test_files_that_are_no_transcripts(folder: Path, tmp_path: Path, change: dict, message: str) -> None:
    file = write(tmp_path / "bad.jsonl", [demonstration(0), demonstration(1) | change])
    with pytest.raises(DataError, match=message):
        load_task(config(folder, tmp_path, input=(file,)), "cpu")


def test_the_files_of_transcripts_that_a_path_names(tmp_path: Path) -> None:
    evaluation, run, plain, empty = (tmp_path / name for name in ("eval", "run", "plain", "empty"))
    for file in (
        evaluation / "transcripts" / "a.jsonl",
        evaluation / "transcripts" / "b.jsonl",
        evaluation / "other.jsonl",
        run / "metrics.jsonl",
        run / "transcripts.jsonl",
        plain / "demos.jsonl",
        empty / "note.txt",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert transcript_files(evaluation) == [evaluation / "transcripts" / name for name in ("a.jsonl", "b.jsonl")]
    assert transcript_files(run) == [run / "transcripts.jsonl"]
    assert transcript_files(plain) == [plain / "demos.jsonl"] == transcript_files(plain / "demos.jsonl")
    with pytest.raises(DataError, match="expected a file of transcripts, the output folder of"):
        transcript_files(empty)


def test_inputs_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"demo\.jsonl does not exist\. Did you mean 'demos\.jsonl'"):
        run_sft(config(folder, tmp_path, input=(folder / "demo.jsonl",)))
    with pytest.raises(DataError, match=r"there is no \.jsonl file in"):
        run_sft(config(folder, tmp_path, input=(tmp_path,)))
    with pytest.raises(ConfigError, match="no input"):
        config(folder, tmp_path, input=())
    with pytest.raises(CheckpointError, match="there is no folder with a model"):
        run_sft(config(folder, tmp_path, policy=str(tmp_path / "nowhere")))
    failed = demonstration(0) | {"stop_reason": "engine_error"}
    file = write(tmp_path / "failed.jsonl", [failed, demonstration(1) | {"stop_reason": None}])
    with pytest.raises(DataError, match=r"no finished episode in .*: 2 ended with an error or not at all"):
        load_task(config(folder, tmp_path, input=(file,)), "cpu")


def test_episodes_with_an_end() -> None:
    records = [demonstration(0) | {"stop_reason": reason} for reason in [None, *StopReason]]
    finished, others = finished_episodes(records)
    assert others == 3
    assert {record["stop_reason"] for record in finished} == {
        reason for reason in StopReason if not StopReason(reason).failed
    }


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 5), (1.0, 19)])
def test_a_question_is_in_one_part(share: float, count: int) -> None:
    records = [demonstration(number // 2) for number in range(40)]
    apart = held_out_questions(records, share, seed=3)
    assert len(apart) == count
    assert apart == held_out_questions(records[::-1], share, seed=3)


def test_the_longest_turn(folder: Path, tmp_path: Path) -> None:
    task = load_task(config(folder, tmp_path, held_out=0.0), "cpu")
    mask = np.array(task.rows[0].trained, dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    assert task.rows[0].longest_turn == max(edges[1::2] - edges[::2])
