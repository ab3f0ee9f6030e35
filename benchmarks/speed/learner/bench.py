"""Tokens per CPU second of the optimisation step, compared with TRL's `GRPOTrainer` on the same rollouts.

Each side is a separate process with one thread. After one warm-up step they alternate, one step each; the ratio is
that of the medians. Compared are the CPU seconds of scoring (policy and reference) and of one update, the peak of
resident memory, and the norm of the gradient, which shows that both do the same work. TRL runs without gradient
checkpointing, which is its faster setting, and pads to micro-batches of `--peer-rows` rollouts.

MFU is the least work of the step (`work.flops`) over its CPU time, over the speed of a large matrix product of
the same type measured in the same run. The last table is the peak memory of this package's side as the batch and the
rollouts grow.

With `--model FOLDER`, a real model in float32 does one update per step, without a KL: groups of 8 rollouts of about 330
tokens with a common prompt of 131 tokens, and search rollouts of up to 512 tokens with a prompt each. Four sides: this
package, this package without shared prefixes, TRL with the micro-batch that is its fastest in one trial step of each,
and Transformers with PyTorch alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from zerosearch_env.errors import AgentError

from ...measure import alternating, default_output, make_parser, matrix_rate, write_record
from .work import WorkSpec, flops, make_work

CASES = {
    "float32": WorkSpec(sequences=16),
    "bfloat16": WorkSpec(sequences=16, dtype="bfloat16"),
    "search": WorkSpec(vocabulary=151_936, search=True, sequences=8),
}
MODEL_CASES = {
    "group": WorkSpec(search=True, sequences=8, shortest=291, longest=371, prompt=131, beta=0.0),
    "search": WorkSpec(search=True, sequences=8, shortest=128, longest=512, common=False, beta=0.0),
}
"""Workloads of `--model`: a common prompt as in `zerosearch train`, and nothing in common."""
MODEL_ROWS = (1, 2, 4, 8)
"""Micro-batches of TRL that are tried."""
PEER_ROWS = {4096: 16}
"""Rollouts per micro-batch of the peer, by vocabulary; 4 for larger vocabularies."""
LIBRARIES = ["torch", "transformers", "trl", "accelerate", "numpy"]


class Side:
    """The process of one side; a context manager.

    Args:
        side: "ours", "trl" or "plain"; a name such as "ours unshared" may follow.
        spec: the workload.
        cycles: number of steps that it will do.
        options: options of the side (see `sides`).
        where: `model` and `device`, if not the workload's own model on the CPU.
    """

    def __init__(self, side: str, spec: WorkSpec, cycles: int, options: dict[str, Any], **where: str) -> None:
        job = {"side": side.partition(" ")[0], "work": asdict(spec), "cycles": cycles, "options": options, **where}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._name = side
        self.ready: dict[str, float] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zerosearch_benchmarks.speed.learner.sides", json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip

    def step(self) -> dict[str, float]:
        """Do one step; return its measurements."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AgentError(f"the side {self._name!r} ended with status {self._process.wait()}; see its error above")
        measurements: dict[str, float] = json.loads(line)
        return measurements

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
    """Measure, print tables, and write a JSON record."""
    parser = make_parser("learner", __doc__, rounds=3)
    parser.add_argument("--model", help="folder of a Transformers model to measure instead of the small ones")
    parser.add_argument("--cases", nargs="+", choices=sorted({*CASES, *MODEL_CASES}), help="which workloads (all)")
    parser.add_argument("--sequences", type=int, help="rollouts per step, a multiple of 8 (16; 8 for search)")
    parser.add_argument("--longest", type=int, help="tokens of the longest rollout (512)")
    parser.add_argument("--vocabulary", type=int, help="size of the vocabulary instead of the workload's own")
    parser.add_argument("--peer-rows", type=int, help="rollouts per micro-batch of TRL (16; 4 for search)")
    parser.add_argument("--no-peer", action="store_true", help="measure only this package")
    parser.add_argument("--no-memory", action="store_true", help="skip the table of peak memory")
    parser.add_argument(
        "--option", nargs="*", default=[], metavar="NAME=JSON", help="fields of `optimizer` for our side"
    )
    arguments = parser.parse_args(argv)
    options = {name: json.loads(value) for name, _, value in (option.partition("=") for option in arguments.option)}
    changes: dict[str, Any] = {
        name: value for name in ("sequences", "longest", "vocabulary") if (value := getattr(arguments, name))
    }
    peer = not arguments.no_peer and find_spec("trl") is not None
    if not peer and not arguments.no_peer:
        print('TRL is not installed (pip install "zerosearch-env[trl]"): this package alone')
    record: dict[str, Any] = {"options": options, "cases": {}}
    known = CASES if arguments.model is None else MODEL_CASES
    for name in (cases := arguments.cases or list(known)):
        if name not in known:
            parser.error(f"--cases: {name!r} is not a workload of this benchmark; with and without --model they differ")
    if arguments.model is not None:
        output = default_output("learner-model") if arguments.output == default_output("learner") else arguments.output
        tried = (arguments.peer_rows,) if arguments.peer_rows else MODEL_ROWS
        for name in cases:
            spec = replace(MODEL_CASES[name], **changes)
            record["cases"][name] = compare_model(
                arguments.model, spec, arguments.rounds, options, tried if peer else ()
            )
            print_model(name, record["cases"][name])
            write_record(output, LIBRARIES, model=Path(arguments.model).name, **record)
        return 0
    for name in cases:
        spec = replace(CASES[name], **changes)
        rows = arguments.peer_rows or PEER_ROWS.get(spec.vocabulary, 4)
        record["cases"][name] = compare(name, spec, arguments.rounds, options, rows if peer else None)
        write_record(arguments.output, LIBRARIES, **record)
    if not arguments.no_memory:
        record["memory"] = memory(changes, options)
        write_record(arguments.output, LIBRARIES, **record)
    return 0


def run_sides(
    spec: WorkSpec, sides: dict[str, dict[str, Any]], rounds: int, **where: str
) -> dict[str, list[dict[str, float]]]:
    """Let both sides take turns on the same work; return the measurements of every step, the first a warm-up.

    Args:
        spec: the workload.
        sides: the options of each side.
        rounds: number of timed steps of each side.
        where: see `Side`.
    """
    steps: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        running = [
            (side, stack.enter_context(Side(side, spec, rounds + 1, options, **where)))
            for side, options in sides.items()
        ]
        for side, process in alternating(running, rounds + 1):
            steps[side].append(process.step())
    return steps


def seconds_per_step(steps: list[dict[str, float]], clock: str) -> float:
    """Return the median seconds of scoring and update together, without the warm-up; `clock` is "cpu" or "wall"."""
    return statistics.median(step[f"score_{clock}_s"] + step[f"update_{clock}_s"] for step in steps[1:])


def compare(name: str, spec: WorkSpec, rounds: int, options: dict[str, Any], peer_rows: int | None) -> dict[str, Any]:
    """Measure one workload on both sides; print a table and return the record."""
    work = make_work(spec)
    trained = sum(map(sum, work.masks))
    lengths = [len(p) + len(c) for p, c in zip(work.prompts, work.completions, strict=True)]
    least, rate = flops(spec, lengths, trained), matrix_rate(spec.dtype)
    steps = run_sides(spec, {"ours": options} | ({"trl": {"micro_batch": peer_rows}} if peer_rows else {}), rounds)
    print(
        f"{name}: {spec.sequences} rollouts, {work.tokens:,} tokens, {trained:,} of them trained, vocabulary "
        f"{spec.vocabulary:,}, {spec.dtype}; {rate / 1e9:.0f} GFLOP per CPU-s in one large product"
    )
    result: dict[str, Any] = {
        "work": asdict(spec), "tokens": work.tokens, "trained_tokens": trained, "least_flops": least,
        "matrix_flops_per_cpu_s": rate, "peer_micro_batch": peer_rows,
    }  # fmt: skip
    for side, measured in steps.items():
        cpu, wall = seconds_per_step(measured, "cpu"), seconds_per_step(measured, "wall")
        row = result[side] = {
            "tokens_per_cpu_s": work.tokens / cpu, "tokens_per_s": work.tokens / wall, "mfu": least / cpu / rate,
            "peak_mib": measured[-1]["peak_mib"], "gradient_norm": measured[0]["gradient_norm"], "steps": measured[1:],
        }  # fmt: skip
        print(
            f"  {side:<5} {row['tokens_per_cpu_s']:7.0f} tokens/CPU-s  {row['tokens_per_s']:7.0f} tokens/s  "
            f"MFU {row['mfu']:4.0%}  peak {row['peak_mib']:6.0f} MiB  gradient norm {row['gradient_norm']:.5f}"
        )
    if peer_rows is not None:
        result["ratio"] = result["ours"]["tokens_per_cpu_s"] / result["trl"]["tokens_per_cpu_s"]
        result["memory_ratio"] = result["ours"]["peak_mib"] / result["trl"]["peak_mib"]
        print(
            f"  ours / TRL: {result['ratio']:.2f} times the tokens per CPU-s, {result['memory_ratio']:.2f} of the peak"
        )
    return result


def compare_model(
    model: str, spec: WorkSpec, rounds: int, options: dict[str, Any], peer_rows: Sequence[int]
) -> dict[str, Any]:
    """Measure the updates of a real model on all sides.

    Args:
        model: its folder.
        spec: the workload.
        rounds: timed steps of each side, after a warm-up.
        options: of this package's side.
        peer_rows: micro-batches that TRL tries, in rollouts; none: without TRL.
    """
    work = make_work(spec)
    trials: dict[int, float] = {}
    for rows in peer_rows if len(peer_rows) > 1 else ():
        (trial,) = run_sides(spec, {"trl": {"micro_batch": rows}}, 0, model=model)["trl"]
        trials[rows] = trial["update_cpu_s"]
        print(f"TRL, {rows} rollouts per micro-batch: {work.tokens / trials[rows]:.1f} tokens/CPU-s in its first step")
    best = min(trials, key=trials.__getitem__) if trials else next(iter(peer_rows), 4)
    unshared = {"ours unshared": {**options, "share_prefixes": False}} if spec.common else {}
    padded = {name: {"micro_batch": best} for name in (("trl", "plain") if peer_rows else ("plain",))}
    steps = run_sides(spec, {"ours": options, **unshared, **padded}, rounds, model=model)
    sides: dict[str, dict[str, Any]] = {
        side: {
            "tokens_per_cpu_s": work.tokens / statistics.median(step["update_cpu_s"] for step in measured[1:]),
            "peak_mib": measured[-1]["peak_mib"],
            "gradient_norm": measured[0]["gradient_norm"],
            "steps": measured[1:],
        }
        for side, measured in steps.items()
    }
    ours = steps["ours"][1:]
    ratios = {
        side: statistics.median(b["update_cpu_s"] / a["update_cpu_s"] for a, b in zip(ours, theirs[1:], strict=True))
        for side, theirs in steps.items()
    }
    return {
        "work": asdict(spec), "tokens": work.tokens, "trained_tokens": sum(map(sum, work.masks)),
        "peer_micro_batch": best, "peer_trial_cpu_s": trials, "sides": sides, "ours_over": ratios,
        "memory_ratio": {side: sides["ours"]["peak_mib"] / row["peak_mib"] for side, row in sides.items()},
    }  # fmt: skip


def print_model(name: str, result: dict[str, Any]) -> None:
    """Print a table of `compare_model`."""
    print(
        f"{name}: {result['work']['sequences']} rollouts, {result['tokens']:,} tokens, {result['trained_tokens']:,} of "
        f"them trained; TRL's best micro-batch: {result['peer_micro_batch']} rollouts"
    )
    for side, row in result["sides"].items():
        print(
            f"  {side:<14} {row['tokens_per_cpu_s']:6.1f} tokens/CPU-s  peak {row['peak_mib']:6.0f} MiB  gradient norm "
            f"{row['gradient_norm']:.5f}  ours: {result['ours_over'][side]:.2f} times as fast, "
            f"{result['memory_ratio'][side]:.2f} of the peak"
        )


def memory(changes: dict[str, Any], options: dict[str, Any]) -> list[dict[str, float]]:
    """Measure the peak memory of one step of the search workload as the batch and the rollouts grow."""
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
