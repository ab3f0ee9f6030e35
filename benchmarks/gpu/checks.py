"""The GPU checks: each takes a `Setting` (device and size), and returns its record or raises."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from zerosearch_env.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from zerosearch_agents.plan.estimate import Architecture

    from ..speed.learner.work import Work, WorkSpec

SECONDS = ("rollout_seconds", "update_seconds")


@dataclass(frozen=True)
class Setting:
    """Device and size of the checks."""

    device: str
    """"cuda" or "cpu"."""
    tiny: bool
    """Whether to use sizes that a CPU handles in seconds."""

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Return the median wall time of some work, in seconds, after one warm-up run."""
        times = []
        for _ in range(rounds + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    def peak_memory(self) -> float | None:
        """Peak memory allocated by torch since the process started, in GB; None on the CPU."""
        import torch

        return torch.cuda.max_memory_allocated() / 1e9 if self.device == "cuda" else None


def check_machine(setting: Setting) -> dict[str, Any]:
    """Measure the GPU: its name, TFLOP/s of a large matrix product by dtype, and GB/s of copying within its memory."""
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
    """Return operations per second of one large matrix product."""
    import torch

    size = 256 if setting.tiny else 8192
    left, right = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    return float(2 * size**3 / setting.seconds(lambda: left @ right))


def check_agreement(setting: Setting) -> dict[str, Any]:
    """Compare log-probabilities of the same sampled tokens, computed in different ways: largest and mean gaps."""
    import torch

    from zerosearch_agents.forward.batch import make_micro_batch, token_logprobs
    from zerosearch_agents.objective.credit import make_samples
    from zerosearch_agents.training.update import Learner

    torch.backends.cuda.matmul.allow_tf32 = False
    record: dict[str, Any] = {}
    learner: Learner = _learner(setting, prompts=2 if setting.tiny else 16)
    from zerosearch_agents.training.step_rollouts import sample_step

    groups = sample_step(learner, 0, noise=0.5).groups
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


def _gap(left: Tensor, right: Tensor) -> dict[str, float]:
    difference = (left - right).abs()
    return {"largest": float(difference.max()), "mean": float(difference.mean())}


class _CutOffError(Exception):
    """Interrupts a run."""


def check_training(setting: Setting) -> dict[str, Any]:
    """Train quickstart steps on the device: their metrics, and how far a resumed run ends from an uninterrupted one."""
    from zerosearch_agents.training.trainer import StepReport, train

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
    names = ("reward", "mismatch_kl", "gradient_norm", "entropy", "tokens_per_second", *SECONDS)
    metrics = [{name: report.metrics[name] for name in names if name in report.metrics} for report in reports]
    if any(abs(row.get("mismatch_kl", 0.0)) > 1e-2 for row in metrics):
        raise RuntimeError(f"sampler and learner disagree: {metrics}")
    return {"steps": metrics, "resumed_weights_apart": apart, "peak_memory_gb": setting.peak_memory()}


def check_step(setting: Setting) -> dict[str, Any]:
    """Measure tokens per second, model FLOPs utilisation and peak memory of the optimisation step.

    The cases vary by model, work and packing. A step is scoring by policy and reference, then one forward, backward and
    AdamW update: the cost of five forward passes. Utilisation is relative to the measured speed of one large bfloat16
    matrix product.
    """
    import torch

    from ..speed.learner.sides import ours
    from ..speed.learner.work import PASSES, make_work

    peak = _product_speed(setting, torch.bfloat16)
    record: dict[str, Any] = {"product_tflops": peak / 1e12, "cases": []}
    packings = ["sequences"] if setting.device == "cpu" else ["sequences", "flex", "off"]
    for name in [None] if setting.tiny else ["Qwen2.5-0.5B", "Qwen2.5-1.5B"]:
        for search in (False, True):
            spec = _work_spec(setting, search)
            for packing in packings:
                case = {"model": name or "tiny", "work": "search" if search else "dense", "packing": packing}
                model = _random_model(name, setting, "float32")
                if setting.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                options = {"packing": packing, **_options(setting)}
                try:
                    seconds = setting.seconds(ours(spec, options, model), rounds=1 if setting.tiny else 3)
                except (RuntimeError, ConfigError) as error:  # still measure the other cases
                    record["cases"].append(case | {"error": f"{type(error).__name__}: {error}"})
                    continue
                work = make_work(spec)
                needed = PASSES * _forward_flops(_shape(model), work)
                record["cases"].append(
                    case
                    | {"tokens_per_s": work.tokens / seconds, "utilisation": needed / seconds / peak}
                    | {"peak_memory_gb": setting.peak_memory()}
                )
                del model
    if any("error" in case for case in record["cases"]):
        raise RuntimeError(f"some cases failed: {json.dumps(record)}")
    return record


def _work_spec(setting: Setting, search: bool) -> WorkSpec:
    from ..speed.learner.work import WorkSpec

    if setting.tiny:
        return WorkSpec(vocabulary=300, dtype="bfloat16", search=search, sequences=8, shortest=40, longest=64)
    return WorkSpec(vocabulary=151_936, dtype="bfloat16", search=search, sequences=32, shortest=512, longest=2048)


def _options(setting: Setting) -> dict[str, Any]:
    return {"micro_batch_tokens": 256 if setting.tiny else 16_384}


def check_peer(setting: Setting) -> dict[str, Any]:
    """Compare seconds per step and peak memory with TRL's `GRPOTrainer` on the same rollouts; the sides alternate."""
    from ..speed.learner.bench import run_sides, seconds_per_step
    from ..speed.learner.work import make_work

    if find_spec("trl") is None:
        return {"skipped": "TRL is not installed"}
    where = {"device": setting.device} | ({} if setting.tiny else {"model": "Qwen2.5-0.5B"})
    options = {"ours": _options(setting), "trl": {"micro_batch": 4}}
    record: dict[str, Any] = {"model": where.get("model", "tiny"), "cases": []}
    for search in (True,) if setting.tiny else (False, True):  # every case starts TRL in a new process
        spec = _work_spec(setting, search)
        steps = run_sides(spec, options, 1 if setting.tiny else 3, **where)
        case: dict[str, Any] = {"work": "search" if search else "dense", "tokens": make_work(spec).tokens}
        for side, measured in steps.items():
            case[side] = {
                "tokens_per_s": case["tokens"] / seconds_per_step(measured, "wall"),
                "peak_mib": measured[-1]["peak_mib"],
                "gradient_norm": measured[0]["gradient_norm"],
            }
        case["ratio"] = case["ours"]["tokens_per_s"] / case["trl"]["tokens_per_s"]
        case["memory_ratio"] = case["ours"]["peak_mib"] / case["trl"]["peak_mib"]
        record["cases"].append(case)
    norms = [abs(case["ours"]["gradient_norm"] / case["trl"]["gradient_norm"] - 1) for case in record["cases"]]
    if max(norms) > 0.05:
        raise RuntimeError(f"the two sides do not do the same work, their gradient norms differ: {record}")
    return record


def _forward_flops(shape: Architecture, work: Work) -> int:
    """Return the FLOPs of one forward pass: every token through the layers, the head only on the policy's tokens."""
    from zerosearch_agents.plan.estimate import forward_flops

    lengths = [len(prompt) + len(rest) for prompt, rest in zip(work.prompts, work.completions, strict=True)]
    body = sum(forward_flops(shape, length, length, 0) for length in lengths)
    return body + forward_flops(shape, 0, 0, sum(map(sum, work.masks)))


def check_sampler(setting: Setting) -> dict[str, Any]:
    """Measure new tokens per second of multi-turn episodes in bf16: sampler against `generate` on the full context."""
    import numpy as np

    from zerosearch_agents.policy.policy import quiet_transformers

    from ..speed.sampler import generate_case, multi_turn, sampler_case

    dtype = "float32" if setting.device == "cpu" else "bfloat16"
    model = _random_model(None if setting.tiny else "Qwen2.5-0.5B", setting, dtype)
    lengths = np.full((2, 3), 4) if setting.tiny else np.full((3, 64), 128)
    prompt, document = (8, 16) if setting.tiny else (256, 512)
    work = multi_turn(lengths, prompt=prompt, document=document, vocabulary=_shape(model).vocab)
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


def check_vllm(setting: Setting) -> dict[str, Any]:
    """Train with vLLM in this process: does it compute the same, and how much memory does it free while asleep?"""
    import torch

    from zerosearch_agents.config.vllm import VLLMConfig
    from zerosearch_agents.processes.workers import Workers
    from zerosearch_agents.sampling.checks import measure_gap
    from zerosearch_agents.sampling.make import CheckedSampler
    from zerosearch_agents.training.trainer import build_learner, train_step
    from zerosearch_env.llm.tokens import encode_prompts

    if find_spec("vllm") is None:
        return {"skipped": "vLLM is not installed"}
    config = _config(setting, prompts=2 if setting.tiny else 16)
    config = replace(config, rollout=replace(config.rollout, sampler="vllm"), vllm=VLLMConfig(gpu_memory=0.3))
    learner = build_learner(config, Workers())  # includes the start-up checks and the check of the weight transfer
    sampler: Any = learner.sampler
    assert isinstance(sampler, CheckedSampler)
    prompts = encode_prompts([f"{q.text}\n" for q in learner.dataset.questions[:16]], learner.policy.tokenizer)
    steps = []
    for step in range(2):
        metrics, _ = train_step(learner, step)
        gap = measure_gap(sampler, learner.policy.model, prompts, config.rollout.temperature)
        names = ("reward", "mismatch_kl", *SECONDS)
        steps.append({name: metrics[name] for name in names if name in metrics} | {"largest_gap": gap.largest})
    record: dict[str, Any] = {"steps": steps}
    if setting.device == "cuda":
        awake = torch.cuda.mem_get_info()[0]
        sampler.before_training()
        record["freed_asleep_gb"] = (torch.cuda.mem_get_info()[0] - awake) / 1e9
        sampler.refresh(3)
        record["gap_woken"] = measure_gap(sampler, learner.policy.model, prompts, config.rollout.temperature).largest
    sampler.close()
    return record


def check_simulated(setting: Setting) -> dict[str, Any]:
    """Measure documents per second of `simulated:tiny`, with 64 concurrent searches."""
    from zerosearch_env.engines import make_engine

    from ..speed.simulated import requests

    count = 4 if setting.tiny else 64
    engine = make_engine({"kind": "simulated", "argument": "tiny", "device": setting.device})
    batches = iter(requests(100 * count)[i * count : (i + 1) * count] for i in range(100))
    results: list[Any] = []

    def work() -> None:
        results[:] = engine.search(next(batches))

    seconds = setting.seconds(work, rounds=1 if setting.tiny else 5)
    engine.close()
    failures = [result.failure for result in results if result.failure]
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(results)} searches failed: {failures[0]}")
    return {"searches": count, "documents_per_s": sum(len(result.documents) for result in results) / seconds}


def _shape(model: Any) -> Architecture:
    """Return a model's dimensions."""
    from zerosearch_agents.plan.estimate import read_architecture

    return read_architecture(model.config.to_dict(), "the model")


def _random_model(name: str | None, setting: Setting, dtype: str) -> Any:
    """Create a model with random weights on the device: one named in `plan.MODELS`, or the benchmark's small model."""
    from ..speed.learner.sides import make_model
    from ..speed.learner.work import WorkSpec

    model: Any = make_model(WorkSpec(), name, dtype=dtype)
    model.to(setting.device)
    model.generation_config.eos_token_id = None
    return model


def _config(setting: Setting, *, prompts: int, steps: int = 2) -> Any:
    """Return the quickstart's configuration for the device, smaller if the sizes are tiny."""
    from zerosearch_agents.config.train import load_preset
    from zerosearch_env.datasets.world.make import WorldConfig

    config = load_preset("quickstart")
    rollout = replace(config.rollout, prompts=prompts, group_size=2 if setting.tiny else 8)
    data = replace(config.data, world=WorldConfig(passages=600)) if setting.tiny else config.data
    return replace(config, device=setting.device, steps=steps, workers=1, rollout=rollout, data=data)


def _learner(setting: Setting, *, prompts: int) -> Any:
    from zerosearch_agents.processes.workers import Workers
    from zerosearch_agents.training.trainer import build_learner

    return build_learner(_config(setting, prompts=prompts), Workers())


CHECKS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "machine": check_machine,
    "agreement": check_agreement,
    "training": check_training,
    "step": check_step,
    "peer": check_peer,
    "sampler": check_sampler,
    "vllm": check_vllm,
    "simulated": check_simulated,
}
