"""`zerosearch simulator collect`: atomic lines, resuming after Ctrl-C and kill -9, the manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forks import ForkedPopen

from zerosearch_agents.runs.manifest import read_manifest
from zerosearch_agents.simulator.cli import main
from zerosearch_agents.simulator.pairs.files import manifest_path, repair_lines
from zerosearch_env.errors import AgentError, ConfigError, DataError

AGENT = """
import os, time
def agent(observation, info):
    time.sleep(float(os.environ.get("PAUSE", "0")))
    stop = os.environ.get("STOP_AT")
    if stop and info["question"] == f"What is number {stop}?":
        raise KeyboardInterrupt
    if not info["searches"]:
        return f"<search>{info['question']}</search>"
    return "<answer>1</answer>"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an agent and ten questions that carry their own paragraphs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walker.py").write_text(AGENT)
    rows = [
        {
            "question": f"What is number {i}?",
            "answer": "1" if i % 2 else "2",
            "id": f"q{i}",
            "context": [[f"Number {i}", [f"The number {i} is old."]], [f"Word {i}", ["A word."]]],
            "supporting_facts": [[f"Number {i}", 0]],
        }
        for i in range(10)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(output: str, **options: str) -> list[str]:
    given = {"agent": "walker.py:agent", "dataset": "questions.jsonl", "workers": "1", "top-k": "2", **options}
    return ["collect", "--output", output, *(part for k, v in given.items() for part in (f"--{k}", v))]


def lines(path: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_every_search_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("out.jsonl")) == 0
    rows = lines("out.jsonl")
    assert [row["question"] for row in rows] == [f"What is number {i}?" for i in range(10)]
    assert [row["em"] for row in rows] == [i % 2 == 1 for i in range(10)]
    search = rows[3]["searches"][0]
    assert search["query"] == "What is number 3?"
    assert search["documents"][0] == {"title": "Number 3", "text": "The number 3 is old."}
    assert search["noisy"] is False
    assert search["label"] is None
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert manifest["complete"]
    assert manifest["lines"] == 10
    assert manifest["counts"] == {"trajectories": 10, "searches": 10, "right": 5}
    assert "collect: trajectories 10, searches 10, right 5" in capsys.readouterr().out


def test_a_run_grows_and_an_interrupt_keeps_what_is_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(command("whole.jsonl"))
    main(command("out.jsonl", questions="4"))
    assert len(lines("out.jsonl")) == 4
    missing = next(str(i) for i in range(5, 10) if f"number {i}?" not in Path("out.jsonl").read_text())
    monkeypatch.setenv("STOP_AT", missing)
    with pytest.raises(KeyboardInterrupt):
        main(command("out.jsonl"))
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert not manifest["complete"]
    assert manifest["lines"] == len(lines("out.jsonl")) >= 4
    monkeypatch.delenv("STOP_AT")
    assert main(command("out.jsonl")) == 0
    by_id = [sorted(lines(name), key=lambda row: row["id"]) for name in ("whole.jsonl", "out.jsonl")]
    assert by_id[0] == by_id[1]
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert manifest["complete"]
    assert manifest["counts"]["trajectories"] == 10


def test_a_line_that_was_cut_off_is_played_again(folder: Path) -> None:
    main(command("out.jsonl"))
    whole = Path("out.jsonl").read_bytes()
    for cut in (len(whole) - 1, len(whole) - 40):
        Path("out.jsonl").write_bytes(whole[:cut])
        main(command("out.jsonl"))
        assert Path("out.jsonl").read_bytes() == whole
    # Also in the middle of the file: a line cut off by a kill and ended by the next writer.
    broken = whole.split(b"\n")
    broken[2] = broken[2][:50]
    Path("out.jsonl").write_bytes(b"\n".join(broken))
    main(command("out.jsonl"))
    assert sorted(Path("out.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9(folder: Path) -> None:
    main(command("whole.jsonl"))
    with open("stderr.txt", "wb") as errors:
        process = ForkedPopen(
            [sys.executable, "-m", "zerosearch_env.cli", "simulator", *command("out.jsonl")],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            env={**os.environ, "PAUSE": "0.15"},
        )
    process.stdin.close()
    deadline = time.monotonic() + 60
    while not (Path("out.jsonl").exists() and Path("out.jsonl").read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = len(repair_lines(Path("out.jsonl")))
    assert 2 <= done < 10
    main(command("out.jsonl"))
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_other_options_are_refused(folder: Path) -> None:
    main(command("out.jsonl", questions="2"))
    with pytest.raises(ConfigError, match=r"seed: 0 -> 3.*--fresh"):
        main(command("out.jsonl", seed="3"))
    main([*command("out.jsonl", seed="3", questions="3"), "--fresh"])
    assert len(lines("out.jsonl")) == 3
    Path("mine.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ConfigError, match="no manifest"):
        main(command("mine.jsonl"))
    with pytest.raises(ConfigError, match="never searches"):
        main(command("none.jsonl", agent="baseline:direct"))
    Path("out.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="line 1: not a line of this pipeline"):
        main([*command("out.jsonl", seed="3")])


def test_what_the_engine_failed_is_played_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zerosearch_agents.simulator.pairs import collect
    from zerosearch_env.engines import FailingEngine

    with monkeypatch.context() as patch:
        make_engine = collect.make_engine
        failing = lambda spec, dataset: FailingEngine(after=3, inner=make_engine(spec, dataset=dataset))  # noqa: E731
        patch.setattr(collect, "make_engine", failing)
        assert main(command("out.jsonl")) == 3
    assert len(lines("out.jsonl")) == 3
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert not manifest["complete"]
    assert manifest["session"]["engine_failures"] == 7
    main(command("out.jsonl"))
    assert len(lines("out.jsonl")) == 10


def test_a_failing_agent_leaves_what_is_done(folder: Path) -> None:
    Path("walker.py").write_text(AGENT.replace("raise KeyboardInterrupt", "raise ValueError('no')"))
    os.environ["STOP_AT"] = "4"
    try:
        with pytest.raises(AgentError, match="q4"):
            main(command("out.jsonl"))
        assert len(lines("out.jsonl")) == 4
        assert main([*command("out.jsonl"), "--on-agent-error", "skip"]) == 3
    finally:
        del os.environ["STOP_AT"]
    assert len(lines("out.jsonl")) == 9
    assert main(command("out.jsonl")) == 0
    assert len(lines("out.jsonl")) == 10


def test_unknown_stage_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'extract'"):
        main(["extrakt"])
    assert main(["--help"]) == 0
    assert "\n  extract   Make training pairs" in capsys.readouterr().out
