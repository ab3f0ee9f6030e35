from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import FORKS
from modules import SMALL, run_module

from zerosearch_benchmarks.gpu import command as gpu
from zerosearch_benchmarks.speed.learner import sides
from zerosearch_env.errors import ConfigError

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
]  # loads torch; slow machines take minutes


# tests/benchmarks/test_learner_bench.py runs "peer", because it has TRL loaded.
@pytest.mark.parametrize("name", [name for name in gpu.CHECKS if name != "peer"])
def test_every_check_runs_without_a_gpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, value in SMALL.items():
        monkeypatch.setattr(sides, size, value)
    assert gpu.run_check(name, gpu.Setting("cpu", tiny=True), tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["passed"]
    assert record["device"] == "cpu"
    if name == "machine":
        assert record["tflops"]["float32"] > 0
    if name == "training":
        assert record["resumed_weights_apart"] == 0.0


def run_in_fork(command: list[str], *, timeout: float, check: bool) -> SimpleNamespace:
    """In place of `subprocess.run`: a process that is forked instead of loading torch."""
    assert command[:2] == [sys.executable, "-m"]
    process = FORKS.Process(target=run_module, args=(command[2:], dict(os.environ), (), {}), daemon=True)
    process.start()
    process.join(timeout)
    return SimpleNamespace(returncode=process.exitcode)


def test_each_check_is_a_process_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.subprocess, "run", run_in_fork)
    options = ["--device", "cpu", "--size", "tiny", "--output", str(tmp_path)]
    assert gpu.main(["machine", *options]) == 0
    assert "all passed" in capfd.readouterr().out
    assert json.loads((tmp_path / "gpu-machine.json").read_text())["device"] == "cpu"


def test_a_check_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--size", "tiny", "--output", str(tmp_path), "--limit", "0.1"]
    assert gpu.main(["machine", *options]) == 1
    assert not json.loads((tmp_path / "gpu-machine.json").read_text())["passed"]


def test_an_error_is_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    def fail(setting: gpu.Setting) -> dict[str, object]:
        raise RuntimeError("out of luck")

    monkeypatch.setitem(gpu.CHECKS, "machine", fail)
    assert not gpu.run_check("machine", gpu.Setting("cpu", tiny=True), tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text())["error"] == "RuntimeError: out of luck"


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="machine"):
        gpu.main(["machin"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no usable GPU"):
        gpu.main(["machine"])
