"""Data parallelism: each of W processes samples and differentiates its share, and the gradients are summed.

The processes are started by torchrun, on one machine or several (`torchrun_workers`), or by this module, on one
machine (`start_workers`). In the second case the calling process is worker 0. It starts the others as
`python -m zerosearch_agents.processes.workers` and sends them their work on standard input. When the parent ends, even
by `kill -9`, that pipe closes and the workers exit. Each worker computes with one thread: two workers with one thread
each are faster than one worker with two, because the small operations of sampling gain nothing from threads.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zerosearch_env.errors import ConfigError, TrainingError, ZeroSearchError

_PATIENCE = timedelta(days=1)  # a dead worker is noticed immediately; a slow one may take long
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


@dataclass(frozen=True)
class Workers:
    """The workers of a run, seen from one of them. All workers must call every method, in the same order."""

    rank: int = 0
    """Number of this worker; worker 0 is the calling process and writes all files."""
    size: int = 1
    """Number of workers."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, ordered by rank, in every worker; values are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the workers, bit-identical in each."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def add_up(self, numbers: dict[str, float]) -> dict[str, float]:
        """Return the sums of the workers' numbers, which must have the same names everywhere."""
        sums = torch.tensor(list(numbers.values()), dtype=torch.float64)
        self.add(sums)
        return dict(zip(numbers, sums.tolist(), strict=True))

    def agree(self, value: int) -> int:
        """Return worker 0's value in every worker."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value])
        dist.broadcast(tensor, 0)
        return int(tensor.item())


def physical_cores() -> int:
    """Cores that this process may use; hardware threads of a core count once if the system reports them."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(topology.read_text() if topology.exists() else str(cpu))
    return max(len(siblings), 1)


def default_workers(policy: Path, device: str) -> int:
    """Default number of workers.

    The number of physical cores, at most 2, for a small policy (up to 100 MB) on the CPU; otherwise 1, with torch's
    default number of threads.
    """
    size = sum(file.stat().st_size for file in policy.glob("*.safetensors"))
    return min(physical_cores(), 2) if device == "cpu" and size <= 100e6 else 1


def under_torchrun() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch_rank() -> int:
    """This process's rank under torchrun; 0 without torchrun."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def local_device(device: str) -> str:
    """The device of this process: each process on a machine uses its own GPU (torchrun's `LOCAL_RANK`)."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


@contextlib.contextmanager
def torchrun_workers(device: str) -> Iterator[Workers]:
    """Join the processes that torchrun started; without torchrun, a single worker.

    At the end of the block all processes wait for each other, so that none closes connections that another still
    needs. A process that fails does not wait: torchrun ends the others. It also leaves the process group as it is,
    because destroying it may wait for processes that no longer answer; such a process can only exit.

    Args:
        device: "cpu" (gloo), or "cuda" (nccl for tensors on the GPU, gloo for those on the CPU).

    Raises:
        ConfigError: if torchrun started more processes than there are GPUs, or this process already has a group.
    """
    if not under_torchrun():
        yield Workers()
        return
    if dist.is_initialized():
        raise ConfigError("this process already belongs to a torch.distributed group; leave it before training.")
    backend = "gloo"
    if device.startswith("cuda"):
        place = int(os.environ["LOCAL_RANK"])
        if place >= torch.cuda.device_count():
            raise ConfigError(
                f"process {place} of this machine has no GPU to itself: {torch.cuda.device_count()} here; "
                f"start with torchrun --nproc-per-node {max(torch.cuda.device_count(), 1)}."
            )
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_PATIENCE)
    workers = Workers(dist.get_rank(), dist.get_world_size())
    yield workers
    workers.add(torch.zeros(1))
    dist.destroy_process_group()


def join_workers(
    workers: int | None, default: int, device: str, function: Callable[..., None], *arguments: Any
) -> contextlib.AbstractContextManager[Workers]:
    """The processes of a run: those that torchrun started, or as many as asked for, started here.

    Args:
        workers: number of worker processes that the user asks for; None: `default`.
        default: number of worker processes without torchrun.
        device: see `torchrun_workers`.
        function: see `start_workers`.
        arguments: see `start_workers`.

    Raises:
        ConfigError: torchrun started the processes, and the user asks for several others.
    """
    if not under_torchrun():
        return start_workers(workers or default, function, *arguments)
    if (workers or 1) > 1:
        raise ConfigError(
            f"workers = {workers} under torchrun, which starts the processes itself: leave workers out and pass "
            f"--nproc-per-node {workers} to torchrun."
        )
    return torchrun_workers(device)


@contextlib.contextmanager
def start_workers(size: int, function: Callable[..., None], *arguments: Any) -> Iterator[Workers]:
    """Start `size - 1` more workers, each of which calls `function(workers, *arguments)`; yields worker 0's `Workers`.

    Args:
        size: number of workers, this process included; 1 starts nothing.
        function: an importable function; it must call the methods of `Workers` in the same order as the `with` block.
        arguments: its further arguments; pickled.

    Raises:
        ConfigError: if the arguments cannot be pickled, or this process already belongs to another group.
        TrainingError: if a worker fails; the message contains its error. The others are stopped.
    """
    if size == 1:
        yield Workers()
        return
    try:
        work = pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as cause:
        raise ConfigError(
            f"several workers need a dataset and an engine that can be pickled ({cause}); use workers=1 with this one."
        ) from cause
    if dist.is_initialized():
        raise ConfigError("this process already belongs to a torch.distributed group; use workers=1 inside it.")
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(size - 1)]
        store = TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
        children: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, children)
        for rank in range(1, size):
            children.append(_start(rank, size, store.port, work, logs[rank - 1]))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        try:
            _await(store, children)
            _join(store, 0, size)
            stack.callback(dist.destroy_process_group)
            yield Workers(0, size)
            for child in children:
                child.wait()
        except (RuntimeError, OSError) as error:
            failure = None if isinstance(error, ZeroSearchError) else _failure(children, logs)
            if failure is None:
                raise
            raise TrainingError(failure) from error


def _start(rank: int, size: int, port: int, work: bytes, log: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    child = subprocess.Popen(
        [sys.executable, "-m", "zerosearch_agents.processes.workers"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died immediately: `_await` notices and reports why
        pickle.dump((rank, size, port, list(sys.path), work), child.stdin)
        child.stdin.flush()
    return child


def _await(store: TCPStore, children: list[subprocess.Popen[bytes]]) -> None:
    """Wait until every worker has started; joining one that died during start-up would wait forever."""
    while not store.check([f"ready-{rank}" for rank in range(1, len(children) + 1)]):
        if any(child.poll() is not None for child in children):
            raise RuntimeError("a worker exited during start-up")
        time.sleep(0.02)


def _join(store: TCPStore, rank: int, size: int) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK.get(sys.platform, "lo"))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)


def _failure(children: list[subprocess.Popen[bytes]], logs: Sequence[IO[bytes]]) -> str | None:
    """The error of the first failed worker, or None if no worker failed."""
    for rank, (child, log) in enumerate(zip(children, logs, strict=True), start=1):
        try:
            code = child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        if code == 0:
            continue
        log.seek(0)
        text = log.read().decode("utf-8", "replace").strip()
        if os.environ.get("ZEROSEARCH_TRACEBACK"):
            print(text, file=sys.stderr)
        last_line = text.splitlines()[-1] if text else "it wrote nothing"
        how = f"ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"worker {rank} {how}: {last_line}"
    return None


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    """End workers that are still running, and wait for them."""
    for child in children:
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
    for child in children:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _exit_with_parent() -> None:
    """Exit when the parent's end of the pipe closes."""
    os.read(0, 1)  # the descriptor, not the stream: a daemon thread must not hold a stream's lock at shutdown
    os._exit(1)


def main() -> NoReturn:
    """Run a worker other than worker 0: read its work from standard input and do it."""
    # Ctrl-C, and SIGTERM from a job scheduler, reach the whole group of processes. Only worker 0 reacts, and informs
    # the others at the end of the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank, size, port, path, work = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    sys.path[:] = path
    try:
        torch.set_num_threads(1)
        function, arguments = pickle.loads(work)
        store = TCPStore("127.0.0.1", port, size, is_master=False)
        store.set(f"ready-{rank}", "")
        _join(store, rank, size)
        function(Workers(rank, size), *arguments)
        dist.destroy_process_group()
        status = 0
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip the interpreter's shutdown: gloo's threads may still run, and destroying them there may abort the process
    # with the message "terminate called without an active exception" and hide the real error.
    os._exit(status)


if __name__ == "__main__":
    main()
