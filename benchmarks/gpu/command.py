"""Run all checks that need a GPU, one after the other; each writes `gpu-NAME.json`.

`benchmarks/gpu.sh` runs it on a bare machine. Each check runs in its own process, so that a failure or lack of memory
does not affect the others; the record of a failed check holds the error. With `--device cpu --size tiny` the same code
runs without a GPU, as the tests do; do not keep such records.

    machine    the GPU, its speed in one large matrix product and its memory bandwidth: the reference for the others
    agreement  the learner's log-probabilities on GPU and CPU, and the sampler's against the learner's
    training   steps of the quickstart on the GPU; an interrupted and resumed run against an uninterrupted one
    step       the optimisation step: tokens per second, utilisation, peak memory, by model, work and packing
    peer       the optimisation step against TRL's trainer, if installed
    sampler    tokens per second of multi-turn sampling against a `generate` loop that recomputes the whole context
    vllm       training steps with vLLM in the learner's process, if installed
    simulated  documents per second of the tiny simulation LLM
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from zerosearch_env.errors import ConfigError, require, unknown_name

from ..measure import default_output, write_record
from .checks import CHECKS, Setting

_LIBRARIES = ["torch", "transformers", "triton", "numpy", "trl", "vllm"]


def run_check(name: str, setting: Setting, output: Path) -> bool:
    """Run one check in this process and write its record; return whether it passed."""
    began = time.perf_counter()
    try:
        record: dict[str, Any] = {"passed": True, **CHECKS[name](setting)}
    except Exception as error:
        traceback.print_exc()
        record = {"passed": False, "error": f"{type(error).__name__}: {error}"}
    record |= {"seconds": round(time.perf_counter() - began, 1), "device": setting.device}
    write_record(output, _LIBRARIES, **record)
    return bool(record["passed"])


def main(argv: list[str] | None = None) -> int:
    """Run the checks; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="zerosearch bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="which (all)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where (cuda)")
    parser.add_argument(
        "--size", default="full", choices=("full", "tiny"), help="tiny: sizes that a CPU handles in seconds (full)"
    )
    parser.add_argument("--output", type=Path, default=default_output("gpu").parent, help="folder of the records")
    parser.add_argument("--limit", type=float, default=240.0, help="time limit per check, in seconds (240)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # one check, in this process
    arguments = parser.parse_args(argv)
    setting = Setting(arguments.device, arguments.size == "tiny")
    names = arguments.checks or list(CHECKS)
    for name in names:
        if name not in CHECKS:
            raise unknown_name("check", name, CHECKS)
    if arguments.here:
        return 0 if run_check(names[0], setting, arguments.output / f"gpu-{names[0]}.json") else 1
    _expect_device(setting)
    failed = []
    for name in names:
        output = arguments.output / f"gpu-{name}.json"
        options = f"--here --device {setting.device} --size {arguments.size} --output".split()
        command = [sys.executable, "-m", "zerosearch_benchmarks.gpu.command", name, *options, str(arguments.output)]
        print(f"== {name}", flush=True)
        try:
            status = subprocess.run(command, timeout=arguments.limit, check=False).returncode
        except subprocess.TimeoutExpired:
            status = -1
            output.write_text(json.dumps({"passed": False, "error": f"not finished in {arguments.limit:g} s"}) + "\n")
        if status:
            failed.append(name)
        if output.is_file():
            print(output.read_text("utf-8"), flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def _expect_device(setting: Setting) -> None:
    torch = require("torch")
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "torch finds no usable GPU on this machine, so nothing was measured; "
            "`--device cpu --size tiny` runs the same code without keeping records of a GPU (give --output)."
        )


if __name__ == "__main__":
    sys.exit(main())
