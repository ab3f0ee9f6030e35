"""The learner's benchmark at a tiny size: its arithmetic, and that both sides do the same work."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from forks import FORKS
from modules import SMALL, run_module

from zerosearch_agents.forward import prefixes
from zerosearch_agents.policy.policy import new_model, tiny_config
from zerosearch_benchmarks.gpu import command as gpu
from zerosearch_benchmarks.speed.learner import bench as learner
from zerosearch_benchmarks.speed.learner import sides, work
from zerosearch_benchmarks.speed.learner.work import WorkSpec, flops, make_work, mask_of

pytestmark = pytest.mark.slow


def test_the_work_is_that_of_the_published_workload() -> None:
    spec = WorkSpec(sequences=64)
    workload = make_work(spec)
    lengths = [len(p) + len(c) for p, c in zip(workload.prompts, workload.completions, strict=True)]
    assert workload.tokens == 18_715
    assert flops(spec, lengths, sum(map(sum, workload.masks))) / workload.tokens == pytest.approx(44.4e6, rel=0.01)
    assert np.allclose(workload.advantages.reshape(-1, 8).mean(1), 0)


def test_a_quarter_of_the_search_work_is_the_policys() -> None:
    workload = make_work(WorkSpec(sequences=64, search=True))
    assert sum(map(sum, workload.masks)) / workload.tokens == pytest.approx(0.25, abs=0.03)
    assert all(mask[-1] == 1 for mask in workload.masks)
    assert mask_of(100, True)[:5] == [1, 1, 1, 1, 0]


class ForkedSide:
    """In place of a side's process: one that is forked instead of loading torch."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: object) -> None:
        assert command[:2] == [sys.executable, "-m"]
        (reader, stdin), (stdout, writer) = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=run_module, args=(command[2:], env, (reader, writer), SMALL), daemon=True)
        self._process.start()
        self.pid = self._process.pid
        self.stdin, self.stdout = os.fdopen(os.dup(stdin.fileno()), "w"), os.fdopen(os.dup(stdout.fileno()))
        for end in (reader, stdin, stdout, writer):
            end.close()

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


class SideHere:
    """In place of a side's process: all its steps in this process, at once, so that TRL is loaded only once."""

    def __init__(self, command: list[str], **_: object) -> None:
        job = command[-1]
        self.stdin = io.StringIO()
        self.stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`Side` closes it)
        output = os.dup(1)
        try:
            os.dup2(self.stdout.fileno(), 1)
            with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ), torch.random.fork_rng():
                patch.setattr(sys, "stdin", io.StringIO("go\n" * json.loads(job)["cycles"]))
                assert sides.main([job]) == 0
            gc.collect()  # a closure holds the copy of the output
        finally:
            os.dup2(output, 1)
            os.close(output)
        self.stdout.seek(0)

    def wait(self, timeout: float) -> None:
        """It has ended."""


@pytest.mark.filterwarnings("ignore")  # what TRL and its libraries warn of is not ours
@pytest.mark.timeout(600)  # loads TRL
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed (extra trl)")
def test_both_sides_have_the_same_gradient(tmp_path, monkeypatch) -> None:
    """On dense work, where this package's side is a process of its own, and on the search work of the check on GPUs."""
    processes = []

    def start(command, **options):
        processes.append((SideHere if processes else ForkedSide)(command, **options))
        return processes[-1]

    monkeypatch.setattr(learner, "subprocess", SimpleNamespace(Popen=start, PIPE=None))
    for module in (work, sides):
        for name, size in SMALL.items():
            monkeypatch.setattr(module, name, size)
    output = tmp_path / "learner.json"
    size = "--sequences 8 --longest 80 --vocabulary 300 --rounds 1 --no-memory --peer-rows 4".split()
    assert learner.main(["--cases", "float32", *size, "--output", str(output)]) == 0
    case = json.loads(output.read_text())["cases"]["float32"]
    assert case["ours"]["gradient_norm"] == pytest.approx(case["trl"]["gradient_norm"], rel=0.02)
    assert case["ratio"] > 0
    assert case["ours"]["peak_mib"] > 100
    assert [type(process) for process in processes] == [ForkedSide, SideHere]
    assert processes[0].pid != os.getpid()

    assert gpu.run_check("peer", gpu.Setting("cpu", tiny=True), tmp_path / "peer.json")
    record = json.loads((tmp_path / "peer.json").read_text())
    assert record["passed"]
    assert record["device"] == "cpu"
    (case,) = record["cases"]
    assert case["work"] == "search"
    assert case["ours"]["gradient_norm"] == pytest.approx(case["trl"]["gradient_norm"], rel=0.02)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["group", "search"])
def test_all_sides_of_a_real_model_have_the_same_gradient(case, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(learner, "subprocess", SimpleNamespace(Popen=SideHere, PIPE=None))
    monkeypatch.setattr(prefixes, "GRAIN", prefixes.GRAIN)  # a side here sets it
    changes = {"vocabulary": 300, "shortest": 50, "longest": 80, "prompt": 30 if case == "group" else 20}
    spec = replace(learner.MODEL_CASES[case], **changes)
    monkeypatch.setitem(learner.MODEL_CASES, case, spec)
    new_model(tiny_config(300, hidden=32, layers=2, heads=2, mlp=48)).save_pretrained(tmp_path / "model")
    output = tmp_path / "learner-model.json"
    peer = find_spec("trl") is not None
    rows = ["--peer-rows", "4"] if peer else ["--no-peer"]
    size = ["--rounds", "1", "--cases", case, "--output", str(output), *rows]
    assert learner.main(["--model", str(tmp_path / "model"), *size]) == 0
    record = json.loads(output.read_text())["cases"][case]
    unshared = ["ours unshared"] if case == "group" else []
    assert list(record["sides"]) == ["ours", *unshared, *(["trl"] if peer else []), "plain"]
    norm = record["sides"]["plain"]["gradient_norm"]
    for side, measured in record["sides"].items():
        assert measured["gradient_norm"] == pytest.approx(norm, rel=0.02 if side == "trl" else 1e-3)
        assert measured["peak_mib"] > 100
        assert record["ours_over"][side] > 0


def test_the_peers_best_micro_batch_is_tried_first(monkeypatch) -> None:
    seconds = {1: 9.0, 2: 5.0, 4: 7.0}

    def run_sides(spec, sides, rounds, *, model):
        def step(side, options):
            cpu = seconds[options["micro_batch"]] if side in ("trl", "plain") else 2.0
            return {"update_cpu_s": cpu, "peak_mib": 100.0 if side == "trl" else 50.0, "gradient_norm": 1.0}

        return {side: [step(side, options)] * (rounds + 1) for side, options in sides.items()}

    monkeypatch.setattr(learner, "run_sides", run_sides)
    result = learner.compare_model("model", learner.MODEL_CASES["group"], 2, {}, (1, 2, 4))
    assert result["peer_micro_batch"] == 2
    assert result["ours_over"] == {"ours": 1.0, "ours unshared": 1.0, "trl": 2.5, "plain": 2.5}
    assert result["memory_ratio"]["trl"] == 0.5
    assert result["tokens"] / 8 == pytest.approx(330, rel=0.05)
    assert result["sides"]["ours"]["tokens_per_cpu_s"] == result["tokens"] / 2


def test_workloads_of_a_model_are_not_those_of_the_small_one(capsys) -> None:
    for arguments in (["--cases", "group"], ["--model", "folder", "--cases", "float32"]):
        with pytest.raises(SystemExit):
            learner.main(arguments)
        assert "is not a workload of this benchmark" in capsys.readouterr().err
