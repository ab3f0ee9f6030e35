"""Everything that needs a GPU to be known, one check after the other, each written to `gpu-NAME.json`.

`benchmarks/gpu.sh` runs it on a bare machine. Each check is a process of its own, so that one that breaks, or runs out
of memory, takes no other with it: its record then holds the error. With `--device cpu --size tiny` the same code runs
where there is no GPU, which is how the tests keep it working; such records are not kept.

    machine    the card, its speed in one large product and its memory bandwidth: what the others are measured against
    agreement  the learner's log-probabilities on the GPU beside the CPU's, and the sampler's beside the learner's
    training   steps of the quickstart on the GPU; a run that is interrupted and resumed beside one that is not
    step       the optimisation step: tokens per second, utilisation, peak memory, by model, work and packing
    peer       the optimisation step beside TRL's trainer, where that is installed
    sampler    tokens per second of multi-turn sampling beside a loop over `generate` that reads everything anew
    vllm       training steps with vLLM in the learner's process, where that is installed
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

from ..measure import default_output, machine
from .checks import CHECKS, Setting

_LIBRARIES = ["zerosearch-env", "torch", "transformers", "triton", "numpy", "trl", "vllm"]


def run_check(name: str, setting: Setting, output: Path) -> bool:
    """Runs one check in this process and writes its record; whether it went well."""
    began = time.perf_counter()
    try:
        record: dict[str, Any] = {"passed": True, **CHECKS[name](setting)}
    except Exception as error:
        traceback.print_exc()
        record = {"passed": False, "error": f"{type(error).__name__}: {error}"}
    record |= {
        "seconds": round(time.perf_counter() - began, 1),
        "device": setting.device,
        "machine": machine(_LIBRARIES),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return bool(record["passed"])


def main(argv: list[str] | None = None) -> int:
    """Runs the checks; the exit status is 1 when one of them failed."""
    parser = argparse.ArgumentParser(
        prog="zerosearch bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="which (all)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="where (cuda)")
    parser.add_argument(
        "--size", default="full", choices=("full", "tiny"), help="tiny: what a CPU does in seconds (full)"
    )
    parser.add_argument("--output", type=Path, default=default_output("gpu").parent, help="folder of the records")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that one check may take (240)")
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
        command = [
            sys.executable,
            "-m",
            "zerosearch_benchmarks.gpu.command",
            name,
            "--here",
            "--device",
            setting.device,
        ]
        command += ["--size", arguments.size, "--output", str(arguments.output)]
        print(f"== {name}", flush=True)
        try:
            status = subprocess.run(command, timeout=arguments.limit, check=False).returncode
        except subprocess.TimeoutExpired:
            status = -1
            output.write_text(json.dumps({"passed": False, "error": f"not done in {arguments.limit:g} s"}) + "\n")
        if status:
            failed.append(name)
        if output.is_file():
            print(output.read_text("utf-8"), flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def _expect_device(setting: Setting) -> None:
    torch = require("torch", "train")
    if setting.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "there is no GPU that torch can use here, and nothing is measured in its place; "
            "`--device cpu --size tiny` runs the same code without keeping records of a GPU (give --output)."
        )


if __name__ == "__main__":
    sys.exit(main())
