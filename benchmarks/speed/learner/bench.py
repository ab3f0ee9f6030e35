"""Tokens per CPU second of the optimisation step, compared with TRL's `GRPOTrainer` on the same rollouts.

Each side is a separate process with one thread. After one warm-up step they alternate, one step each; the ratio is
that of the medians. Compared are the CPU seconds of scoring (policy and reference) and of one update, the peak of
resident memory, and the norm of the gradient, which shows that both do the same work. TRL runs without gradient
checkpointing, which is its faster setting, and pads to micro-batches of `--peer-rows` rollouts.

MFU is the least work of the step (`learner_work.flops`) over its CPU time, over the speed of a large matrix product of
the same type measured in the same run. The last table is the peak memory of this package's side as the batch and the
rollouts grow.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from zerosearch_env.errors import AgentError

from ...measure import benchmark_parser, machine
from .work import WorkSpec, flops, make_work

CASES = {
    "float32": WorkSpec(sequences=16),
    "bfloat16": WorkSpec(sequences=16, dtype="bfloat16"),
    "search": WorkSpec(vocabulary=151_936, search=True, sequences=8),
}
PEER_ROWS = {4096: 16}
"""Rollouts of the peer's micro-batch by vocabulary; 4 where it is larger."""


class Side:
    """One side's process; a context manager.

    Args:
        side: "ours" or "trl".
        spec: the workload.
        cycles: steps that it will do.
        options: of the side (`learner_sides`).
        where: `model` and `device`, where they are others than the workload's own on the CPU.
    """

    def __init__(self, side: str, spec: WorkSpec, cycles: int, options: dict[str, Any], **where: str) -> None:
        wanted = {"side": side, "work": asdict(spec), "cycles": cycles, "options": options, **where}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._name = side
        self.ready: dict[str, float] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zerosearch_benchmarks.speed.learner.sides", json.dumps(wanted)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip

    def step(self) -> dict[str, float]:
        """Has one step done; what it cost."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AgentError(f"the side {self._name!r} ended with status {self._process.wait()}; see its error above")
        found: dict[str, float] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        try:
            self.ready = self._read()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(argv: list[str] | None = None) -> int:
    """Measures, prints tables, and writes a JSON record."""
    parser = benchmark_parser("learner", __doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which workloads (all)")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each side (3)")
    parser.add_argument("--sequences", type=int, help="rollouts of a step, a multiple of 8 (16; 8 for search)")
    parser.add_argument("--longest", type=int, help="tokens of the longest rollout (512)")
    parser.add_argument("--vocabulary", type=int, help="size of the vocabulary instead of the workload's own")
    parser.add_argument("--peer-rows", type=int, help="rollouts of TRL's micro-batch (16; 4 for search)")
    parser.add_argument("--no-peer", action="store_true", help="this package alone")
    parser.add_argument("--no-memory", action="store_true", help="without the table of peak memory")
    parser.add_argument(
        "--option", nargs="*", default=[], metavar="NAME=JSON", help="fields of `optimizer` for our side"
    )
    arguments = parser.parse_args(argv)
    options = {name: json.loads(value) for name, _, value in (one.partition("=") for one in arguments.option)}
    changes: dict[str, Any] = {
        name: value for name in ("sequences", "longest", "vocabulary") if (value := getattr(arguments, name))
    }
    peer = not arguments.no_peer and find_spec("trl") is not None
    if not peer and not arguments.no_peer:
        print('TRL is not installed (pip install "zerosearch-env[trl]"): this package alone')
    record: dict[str, Any] = {"options": options, "cases": {}}
    for name in arguments.cases:
        spec = replace(CASES[name], **changes)
        rows = arguments.peer_rows or PEER_ROWS.get(spec.vocabulary, 4)
        record["cases"][name] = compare(name, spec, arguments.rounds, options, rows if peer else None)
        _write(arguments.output, record)
    if not arguments.no_memory:
        record["memory"] = memory(changes, options)
        _write(arguments.output, record)
    print(f"written: {arguments.output}")
    return 0


def compare(name: str, spec: WorkSpec, rounds: int, options: dict[str, Any], peer_rows: int | None) -> dict[str, Any]:
    """One workload: the sides take turns; prints a table and returns what is recorded."""
    work = make_work(spec)
    trained = sum(map(sum, work.masks))
    lengths = [len(p) + len(c) for p, c in zip(work.prompts, work.completions, strict=True)]
    least, rate = flops(spec, lengths, trained), matrix_rate(spec.dtype)
    asked = {"ours": options} | ({} if peer_rows is None else {"trl": {"micro_batch": peer_rows}})
    steps: dict[str, list[dict[str, float]]] = {side: [] for side in asked}
    with ExitStack() as stack:
        sides = {side: stack.enter_context(Side(side, spec, rounds + 1, settings)) for side, settings in asked.items()}
        for number in range(rounds + 1):
            for side in sides if number % 2 == 0 else reversed(sides):
                steps[side].append(sides[side].step())
    print(
        f"{name}: {spec.sequences} rollouts, {work.tokens:,} tokens, {trained:,} of them trained, vocabulary "
        f"{spec.vocabulary:,}, {spec.dtype}; {rate / 1e9:.0f} GFLOP per CPU-s in one large product"
    )
    result: dict[str, Any] = {
        "work": asdict(spec), "tokens": work.tokens, "trained_tokens": trained, "least_flops": least,
        "matrix_flops_per_cpu_s": rate, "peer_micro_batch": peer_rows,
    }  # fmt: skip
    for side, found in steps.items():
        timed = found[1:]
        norm = found[0]["gradient_norm"]
        cpu = statistics.median(one["score_cpu_s"] + one["update_cpu_s"] for one in timed)
        wall = statistics.median(one["score_wall_s"] + one["update_wall_s"] for one in timed)
        result[side] = {
            "tokens_per_cpu_s": work.tokens / cpu, "tokens_per_s": work.tokens / wall, "mfu": least / cpu / rate,
            "peak_mib": found[-1]["peak_mib"], "gradient_norm": norm, "steps": timed,
        }  # fmt: skip
        print(
            f"  {side:<5} {work.tokens / cpu:7.0f} tokens/CPU-s  {work.tokens / wall:7.0f} tokens/s  "
            f"MFU {least / cpu / rate:4.0%}  peak {found[-1]['peak_mib']:6.0f} MiB  "
            f"gradient norm {norm:.5f}"
        )
    if peer_rows is not None:
        result["ratio"] = result["ours"]["tokens_per_cpu_s"] / result["trl"]["tokens_per_cpu_s"]
        result["memory_ratio"] = result["ours"]["peak_mib"] / result["trl"]["peak_mib"]
        print(
            f"  ours / TRL: {result['ratio']:.2f} times the tokens per CPU-s, {result['memory_ratio']:.2f} of the peak"
        )
    return result


def memory(changes: dict[str, Any], options: dict[str, Any]) -> list[dict[str, float]]:
    """Peak memory of one step of the search workload as the batch grows, and as the rollouts do."""
    base = replace(CASES["search"], **changes)
    print(f"peak memory, search workload, vocabulary {base.vocabulary:,}:")
    rows: list[dict[str, float]] = []
    for sequences, longest in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4)):
        spec = replace(
            base, sequences=base.sequences * sequences, longest=base.longest * longest, shortest=base.shortest * longest
        )
        with Side("ours", spec, 1, options) as side:
            before, peak = side.ready["peak_mib"], side.step()["peak_mib"]
        rows.append({"sequences": spec.sequences, "longest": spec.longest, "before_mib": before, "peak_mib": peak})
        print(f"  {spec.sequences:4} rollouts of up to {spec.longest:5} tokens: {peak:6.0f} MiB ({before:.0f} before)")
    return rows


def matrix_rate(dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations per CPU second of one large product of this type, the median of some, one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
        rates = []
        for _ in range(repeats):
            start = time.process_time()
            torch.mm(left, right)
            rates.append(2 * size**3 / (time.process_time() - start))
        return statistics.median(rates)
    finally:
        torch.set_num_threads(threads)


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    libraries = ["zerosearch-env", "torch", "transformers", "trl", "accelerate", "numpy"]
    path.write_text(json.dumps({**record, "machine": machine(libraries)}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
