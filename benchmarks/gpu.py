"""Everything that needs a GPU to be known, one check after the other, each written to `gpu-NAME.json`.

`benchmarks/gpu.sh` runs it on a bare machine. Each check is a process of its own, so that one that breaks, or runs out
of memory, takes no other with it: its record then holds the error. With `--device cpu --size tiny` the same code runs
where there is no GPU, which is how the tests keep it working; such records are not kept.

    machine    the card, its speed in one large product and its memory bandwidth: what the others are measured against
    agreement  the learner's log-probabilities on the GPU beside the CPU's, and the sampler's beside the learner's
    training   steps of the quickstart on the GPU; a run that is interrupted and resumed beside one that is not
    step       the optimisation step: tokens per second, utilisation, peak memory, by model, work and packing
    sampler    tokens per second of multi-turn sampling beside a loop over `generate` that reads everything anew
    simulated  documents per second of the tiny simulation LLM
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import ConfigError, require, unknown_name

from .measure import default_output, machine

if TYPE_CHECKING:
    from torch import Tensor

    from zerosearch_agents.plan import Architecture

    from .learner_work import Work

_LIBRARIES = ["zerosearch-env", "torch", "transformers", "triton", "numpy", "trl"]


@dataclass(frozen=True)
class Setting:
    """Where and how large."""

    device: str
    """"cuda" or "cpu"."""
    tiny: bool
    """Sizes that a CPU does in seconds."""

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Median wall time of some work, in seconds, after one run that does not count."""
        times = []
        for _ in range(rounds + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    def peak_memory(self) -> float | None:
        """GB that torch has held at most since the process began; None on the CPU."""
        import torch

        return torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else None


def check_machine(setting: Setting) -> dict[str, Any]:
    """The card, TFLOP/s of one large product by type, and GB/s of copying within its memory."""
    import torch

    size = 256 if setting.tiny else 8192
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    speeds = {name: _product_speed(setting, dtype) / 1e12 for name, dtype in kinds.items()}
    source = torch.zeros(size * size, device=setting.device)
    target = torch.empty_like(source)
    seconds = setting.seconds(lambda: target.copy_(source))
    record: dict[str, Any] = {"tflops": speeds, "copy_gb_per_s": 8e-9 * size * size / seconds}
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        record |= {"card": card.name, "memory_gb": card.total_memory / 1e9, "cuda": torch.version.cuda}
    return record


def _product_speed(setting: Setting, dtype: Any) -> float:
    """Operations per second of one large product."""
    import torch

    size = 256 if setting.tiny else 8192
    left, right = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    return float(2 * size**3 / setting.seconds(lambda: left @ right))


def check_agreement(setting: Setting) -> dict[str, Any]:
    """Largest and mean gaps between log-probabilities of the same sampled tokens, by how they were computed."""
    import torch

    from zerosearch_agents.batch import make_micro_batch, token_logprobs
    from zerosearch_agents.learner import Learner
    from zerosearch_agents.weighing import make_samples

    torch.backends.cuda.matmul.allow_tf32 = False
    record: dict[str, Any] = {}
    learner: Learner = _learner(setting, prompts=2 if setting.tiny else 16)
    from zerosearch_agents.collect import collect_groups

    groups = collect_groups(learner, 0, noise=0.5).groups
    samples = [sample for group in make_samples(groups) for sample in group]
    model: Any = learner.policy.model
    sampled = torch.cat([torch.from_numpy(s.policy_logprobs.copy()) for s in samples])

    @torch.no_grad()
    def scored(device: str) -> Tensor:
        model.to(device)
        parts = [make_micro_batch(samples[i : i + 8], device) for i in range(0, len(samples), 8)]
        return torch.cat([token_logprobs(model, part)[0].float().cpu() for part in parts])

    here, cpu = scored(setting.device), scored("cpu")
    record["float32"] = {"sampler_learner": _gap(sampled, here), "learner_cpu": _gap(here, cpu)}
    model.to(torch.bfloat16)
    record["bfloat16"] = {"learner_float32": _gap(scored(setting.device), cpu)}
    worst = record["float32"]["sampler_learner"]["largest"], record["float32"]["learner_cpu"]["largest"]
    if max(worst) > 1e-3:
        raise RuntimeError(f"float32 log-probabilities differ by up to {max(worst):.2g}, more than 1e-3: {record}")
    return record | {"tokens": len(sampled)}


def _gap(one: Tensor, other: Tensor) -> dict[str, float]:
    difference = (one - other).abs()
    return {"largest": float(difference.max()), "mean": float(difference.mean())}


class _CutOffError(Exception):
    """Ends a run in the middle."""


def check_training(setting: Setting) -> dict[str, Any]:
    """Metrics of quickstart steps on the device, and how far an interrupted and resumed run ends from a whole one."""
    from zerosearch_agents.trainer import StepReport, train

    steps = 2 if setting.tiny else 6
    reports: list[StepReport] = []
    with tempfile.TemporaryDirectory() as folder:
        config = _config(setting, prompts=2 if setting.tiny else 16, steps=steps)
        config = replace(config, files=replace(config.files, checkpoint_every=1))
        whole = train(replace(config, output=f"{folder}/whole"), callback=reports.append)

        def cut(report: StepReport) -> None:
            if report.step == steps // 2:
                raise _CutOffError

        with contextlib.suppress(_CutOffError):
            train(replace(config, output=f"{folder}/cut"), callback=cut)
        resumed = train(replace(config, output=f"{folder}/cut"), resume=True)
    mine, other = whole.policy.model.state_dict(), resumed.policy.model.state_dict()
    apart = max(float((mine[name].float() - other[name].float()).abs().max()) for name in mine)
    kept = (
        "reward",
        "mismatch_kl",
        "gradient_norm",
        "entropy",
        "tokens_per_second",
        "rollout_seconds",
        "update_seconds",
    )
    metrics = [{name: report.metrics[name] for name in kept if name in report.metrics} for report in reports]
    if any(abs(one.get("mismatch_kl", 0.0)) > 1e-2 for one in metrics):
        raise RuntimeError(f"sampler and learner disagree: {metrics}")
    return {"steps": metrics, "resumed_weights_apart": apart, "peak_memory_gb": setting.peak_memory()}


def check_step(setting: Setting) -> dict[str, Any]:
    """Tokens per second, model FLOPs utilisation and peak memory of the optimisation step, by model, work and packing.

    A step is scoring by policy and reference, and one forward, backward and AdamW update: five forward passes' worth.
    The utilisation is of the speed of one large bfloat16 product, measured here.
    """
    import torch

    from .learner_sides import ours
    from .learner_work import PASSES, WorkSpec, make_work

    peak = _product_speed(setting, torch.bfloat16)
    record: dict[str, Any] = {"product_tflops": peak / 1e12, "cases": []}
    packings = ["sequences"] if setting.device == "cpu" else ["sequences", "flex", "off"]
    for name in ["tiny"] if setting.tiny else ["Qwen2.5-0.5B", "Qwen2.5-1.5B"]:
        shape = _shape(name)
        for search in (False, True):
            size = (
                {"sequences": 8, "longest": 96} if setting.tiny else {"sequences": 32, "shortest": 512, "longest": 2048}
            )
            spec = WorkSpec(vocabulary=shape.vocab, dtype="bfloat16", search=search, **size)
            for packing in packings:
                case = {"model": name, "work": "search" if search else "dense", "packing": packing}
                model = _random_model(shape, setting, "float32")
                if setting.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                options = {"packing": packing, "micro_batch_tokens": 256 if setting.tiny else 16_384}
                try:
                    seconds = setting.seconds(ours(spec, options, model), rounds=1 if setting.tiny else 3)
                except (RuntimeError, ConfigError) as error:  # the other cases are still worth knowing
                    record["cases"].append(case | {"error": f"{type(error).__name__}: {error}"})
                    continue
                work = make_work(spec)
                needed = PASSES * _forward_flops(shape, work)
                record["cases"].append(
                    case
                    | {"tokens_per_s": work.tokens / seconds, "utilisation": needed / seconds / peak}
                    | {"peak_memory_gb": setting.peak_memory()}
                )
                del model
    if any("error" in case for case in record["cases"]):
        raise RuntimeError(f"some cases failed: {json.dumps(record)}")
    return record


def _forward_flops(shape: Architecture, work: Work) -> int:
    """Of one forward pass over the work: every token through the layers, the head where it is the policy's."""
    from zerosearch_agents.plan import forward_flops

    lengths = [len(prompt) + len(rest) for prompt, rest in zip(work.prompts, work.completions, strict=True)]
    body = sum(forward_flops(shape, length, length, 0) for length in lengths)
    return body + forward_flops(shape, 0, 0, sum(map(sum, work.masks)))


def check_sampler(setting: Setting) -> dict[str, Any]:
    """New tokens per second of multi-turn episodes, the sampler beside `generate` on everything anew, in bf16."""
    import numpy as np

    from zerosearch_agents.model import quiet_transformers

    from .sampler import generate_case, multi_turn, sampler_case

    shape = _shape("tiny" if setting.tiny else "Qwen2.5-0.5B")
    model = _random_model(shape, setting, "float32" if setting.device == "cpu" else "bfloat16")
    lengths = np.full((2, 3), 4) if setting.tiny else np.full((3, 64), 128)
    prompt, document = (8, 16) if setting.tiny else (256, 512)
    work = multi_turn(lengths, prompt=prompt, document=document, vocabulary=shape.vocab)
    speeds = {}
    with quiet_transformers():
        for name, case in (("sampler", sampler_case), ("generate", generate_case)):
            speeds[name] = int(lengths.sum()) / setting.seconds(case(model, work), rounds=1 if setting.tiny else 2)
    turns, episodes = lengths.shape
    sizes = {
        "episodes": episodes,
        "turns": turns,
        "new_tokens": int(lengths[0, 0]),
        "prompt": prompt,
        "document": document,
    }
    return {"sizes": sizes, "tokens_per_s": speeds, "ratio": speeds["sampler"] / speeds["generate"]}


def check_simulated(setting: Setting) -> dict[str, Any]:
    """Documents per second of `simulated:tiny`, 64 searches at once."""
    from zerosearch_env.engines import make_engine

    from .simulated import requests

    count = 4 if setting.tiny else 64
    engine = make_engine({"kind": "simulated", "argument": "tiny", "device": setting.device})
    batches = iter(requests(100 * count)[i * count : (i + 1) * count] for i in range(100))
    found: list[Any] = []

    def work() -> None:
        found[:] = engine.search(next(batches))

    seconds = setting.seconds(work, rounds=1 if setting.tiny else 5)
    engine.close()
    failures = [result.failure for result in found if result.failure]
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(found)} searches failed: {failures[0]}")
    return {"searches": count, "documents_per_s": sum(len(result.documents) for result in found) / seconds}


CHECKS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "machine": check_machine,
    "agreement": check_agreement,
    "training": check_training,
    "step": check_step,
    "sampler": check_sampler,
    "simulated": check_simulated,
}


def _shape(name: str) -> Architecture:
    """The numbers of a Qwen2.5 model, or of one that fits anywhere ("tiny")."""
    from zerosearch_agents.plan import MODELS, Architecture

    if name == "tiny":
        return Architecture("qwen2", 32, 2, 2, 1, 16, 64, 4096, True)
    return MODELS[name]


def _random_model(shape: Architecture, setting: Setting, dtype: str) -> Any:
    """A model with random weights on the device."""
    from transformers import Qwen2Config

    from zerosearch_agents.model import new_model

    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )
    model: Any = new_model(config, dtype=dtype)
    model.to(setting.device)
    model.generation_config.eos_token_id = None
    return model


def _config(setting: Setting, *, prompts: int, steps: int = 2) -> Any:
    """The quickstart's configuration on the device, smaller where the sizes are tiny."""
    from zerosearch_agents.config import load_preset
    from zerosearch_env.datasets.world import WorldConfig

    config = load_preset("quickstart")
    rollout = replace(config.rollout, prompts=prompts, group_size=2 if setting.tiny else 8)
    data = replace(config.data, world=WorldConfig(passages=600)) if setting.tiny else config.data
    return replace(config, device=setting.device, steps=steps, workers=1, rollout=rollout, data=data)


def _learner(setting: Setting, *, prompts: int) -> Any:
    from zerosearch_agents.team import Team
    from zerosearch_agents.trainer import build_learner

    return build_learner(_config(setting, prompts=prompts), Team())


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
        command = [sys.executable, "-m", "zerosearch_benchmarks.gpu", name, "--here", "--device", setting.device]
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
