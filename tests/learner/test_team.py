from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zerosearch_agents.processes import workers as module
from zerosearch_agents.processes.workers import Workers, default_workers, physical_cores, start_workers
from zerosearch_env.errors import ConfigError, TrainingError

pytestmark = pytest.mark.usefixtures("real_start")


def test_a_team_of_one_changes_nothing():
    workers, tensor = Workers(), torch.ones(2)
    workers.add(tensor)
    assert tensor.tolist() == [1.0, 1.0]
    assert workers.gather("mine") == ["mine"]
    assert workers.agree(3) == 3


def together(workers):
    tensor = torch.full((3,), float(workers.rank + 1))
    workers.add(tensor)
    return tensor.tolist(), workers.gather({"rank": workers.rank}), workers.agree(10 + workers.rank)


def fail_in_another_worker(workers):
    together(workers)
    if workers.rank:
        raise ValueError("out of luck")
    together(workers)


def fail_together():
    with start_workers(2, fail_in_another_worker) as workers:
        assert together(workers) == ([3.0] * 3, [{"rank": 0}, {"rank": 1}], 10)
        assert torch.get_num_threads() == 1
        together(workers)


@pytest.mark.slow
def test_a_worker_that_fails_is_quoted_and_the_threads_are_restored():
    threads = torch.get_num_threads()
    with pytest.raises(TrainingError, match="worker 1 ended with status 1: ValueError: out of luck"):
        fail_together()
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(ConfigError, match="workers=1"), start_workers(2, together, lambda: None):
        pass


def test_a_worker_that_dies_while_it_starts_is_noticed(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with (
        pytest.raises(TrainingError, match="worker 1 ended with status 1: it wrote nothing"),
        start_workers(2, together),
    ):
        pass


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_team import report_and_wait
from zerosearch_agents.processes.workers import start_workers
with start_workers(2, report_and_wait) as workers:
    report_and_wait(workers)
"""


def report_and_wait(workers):
    pids = workers.gather(os.getpid())
    if workers.rank == 0:
        print(*pids, flush=True)
    time.sleep(60)


def alive(pid):
    """Whether a process runs; one that nobody has waited for yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.slow
def test_workers_die_with_a_parent_that_is_killed():
    command = [sys.executable, "-c", PARENT, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        parent_pid, child_pid = map(int, parent.stdout.readline().split())
        assert parent_pid == parent.pid
        assert alive(child_pid)
        os.kill(child_pid, signal.SIGINT)  # Ctrl-C in a terminal reaches the whole group
        time.sleep(0.1)
        assert alive(child_pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(child_pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child_pid)


def test_default_number_of_workers(tmp_path, monkeypatch):
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(module, "physical_cores", lambda: 8)
    (tmp_path / "model.safetensors").write_bytes(b"small")
    assert default_workers(tmp_path, "cpu") == 2
    assert default_workers(tmp_path, "cuda") == 1
    with (tmp_path / "model-2.safetensors").open("wb") as file:
        file.truncate(200_000_000)
    assert default_workers(tmp_path, "cpu") == 1
