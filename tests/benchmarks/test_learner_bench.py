"""The learner's benchmark at a tiny size: its arithmetic, and that both sides do the same work."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from forks import FORKS
from modules import SMALL, run_module

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
