"""The two sides of `zerosearch bench learner`; each is a separate process that does one step on request.

    python -m zerosearch_benchmarks.speed.learner.sides '{"side": "ours", "cycles": 3, "work": {...}}'

It writes a line of JSON when it is ready, then one for every line that it reads, and ends after `cycles` of them.
The time spent waiting for a line is not measured. `"model"` is the folder of a model, or names a model of
`agents/plan/estimate.py`, to use instead of the workload's own; `"device": "cuda"` runs it on a GPU.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from ...measure import memory_mb
from .work import (
    FIRST,
    GROUP,
    HEAD,
    HEADS,
    KV_HEADS,
    LAYERS,
    MLP,
    WIDTH,
    Work,
    WorkSpec,
    character_tokenizer,
    make_work,
)

CLIP, RATE = 0.2, 1e-6


def peak_mib(device: str = "cpu") -> float:
    """Return the peak memory of this process in MiB: resident, or of tensors on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return memory_mb("VmHWM") * 1e6 / 2**20


def make_model(spec: WorkSpec, name: str | None = None, *, dtype: str = "float32") -> Any:
    """Create a random model, the workload's own or one with the shape of a model in `plan.MODELS`, or load a folder."""
    from zerosearch_agents.plan.estimate import MODELS, transformers_config
    from zerosearch_agents.policy.policy import new_model, quiet_transformers, tiny_config

    if name is not None and Path(name).is_dir():
        import torch
        from transformers import AutoModelForCausalLM

        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), local_files_only=True)
        return loaded.eval()
    if name is not None:
        return new_model(transformers_config(MODELS[name]), dtype=dtype)
    config = tiny_config(
        spec.vocabulary, hidden=WIDTH, layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, mlp=MLP, head_dim=HEAD,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return new_model(config, dtype=dtype)


def ours(spec: WorkSpec, options: dict[str, Any], model: Any | None = None) -> Callable[[], dict[str, float]]:
    """Make a function that does one step of this package: `compute_logprobs` (with a KL), then `update`.

    Args:
        spec: the workload.
        options: fields of `OptimizerConfig` that differ from the defaults, and `share_prefixes`: false computes common
            prefixes again for every rollout.
        model: a model to use instead of the workload's own, on any device.
    """
    from zerosearch_agents.config.algorithms import AlgorithmConfig
    from zerosearch_agents.config.train import OptimizerConfig, TrainConfig
    from zerosearch_agents.forward import prefixes
    from zerosearch_agents.forward.batch import Sample
    from zerosearch_agents.forward.mode import prepare_model
    from zerosearch_agents.policy.policy import Policy
    from zerosearch_agents.processes.workers import Workers
    from zerosearch_agents.training.logprobs import compute_logprobs
    from zerosearch_agents.training.optimizer import flat_gradient, make_optimizer
    from zerosearch_agents.training.update import Learner, make_reference, update
    from zerosearch_env.game.noise_kinds import NoiseKinds

    options = dict(options)
    if not options.pop("share_prefixes", True):
        prefixes.GRAIN = spec.longest + 1
    config = TrainConfig(
        algorithm=AlgorithmConfig(
            aggregation="sequences",
            clip_low=CLIP,
            clip_high=CLIP,
            kl_coefficient=spec.beta,
            recompute_logprobs=True,
            importance_cap=1.0,
        ),
        optimizer=OptimizerConfig(**{"learning_rate": RATE, "dtype": spec.dtype, **options}),
    )
    unused: Any = None
    policy = Policy(make_model(spec) if model is None else model, unused)
    mode = prepare_model(policy.model, config, spec.longest)
    learner = Learner(
        config=config,
        policy=policy,
        reference=make_reference(policy, config),
        optimizer=make_optimizer(policy.model, config),
        gradient=flat_gradient(policy.model),
        sampler=SimpleNamespace(context_tokens=spec.longest),  # type: ignore[arg-type]
        engine=unused,
        dataset=unused,
        rules=unused,
        schedule=float,
        noise_kinds=NoiseKinds(),
        workers=Workers(),
        mode=mode,
    )
    work = make_work(spec)
    samples = [Sample(rollout, float(a), 0.0) for rollout, a in zip(rollouts(work), work.advantages, strict=True)]
    device = policy.model.device.type
    groups = [samples[i : i + GROUP] for i in range(0, len(samples), GROUP)]
    before = compute_logprobs(learner, groups) if spec.beta == 0 else None

    def cycle() -> dict[str, float]:
        clocks = [read_clocks(device)]
        scored = compute_logprobs(learner, groups) if before is None else before
        clocks.append(read_clocks(device))
        stats = update(learner, [sample for group in scored for sample in group], RATE)
        clocks.append(read_clocks(device))
        assert stats is not None
        return {**_spent(clocks), "gradient_norm": stats.gradient_norm}

    return cycle


def read_clocks(device: str) -> tuple[float, float]:
    """Read the CPU and wall clocks, in seconds, after the device has finished all work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def _spent(clocks: list[tuple[float, float]]) -> dict[str, float]:
    """Return the seconds of scoring and of the update, from three readings of the clocks."""
    (cpu0, wall0), (cpu1, wall1), (cpu2, wall2) = clocks
    return {
        "score_cpu_s": cpu1 - cpu0, "update_cpu_s": cpu2 - cpu1,
        "score_wall_s": wall1 - wall0, "update_wall_s": wall2 - wall1,
    }  # fmt: skip


def rollouts(work: Work) -> list[Any]:
    """Convert the work to the learner's rollouts."""
    from zerosearch_agents.rollouts.rollout import Rollout
    from zerosearch_env.types import Scores, StopReason

    result = []
    for prompt, completion, mask in zip(work.prompts, work.completions, work.masks, strict=True):
        ids = np.array([*prompt, *completion], dtype=np.int32)
        sampled = np.array([0] * len(prompt) + mask, dtype=np.bool_)
        # So unlikely that every importance weight is at its bound, 1: TRL has no weights when it uses its own sampler.
        logprobs = np.where(sampled, -50.0, 0.0).astype(np.float32)
        scores = Scores(None, ("a",), 0.0, 0.0, 0.0, 0.0, 0)
        result.append(Rollout(ids, sampled, logprobs, scores, StopReason.ANSWER, 0.0, 1, 0, 0, 0, 0))
    return result


def trl(
    spec: WorkSpec, options: dict[str, Any], cycles: int, wait: Callable[[], None], say: Callable[..., None]
) -> None:
    """Do all steps with TRL's `GRPOTrainer` on the same work; the trainer owns the loop, so this returns no step.

    Args:
        spec: the workload.
        options: `micro_batch`, the number of rollouts per forward pass; `model`, `device`: see the module's docstring.
        cycles: number of steps.
        wait: returns when the next step is requested.
        say: reports the measurements of a step.
    """
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from datasets import Dataset
    from transformers import TrainerCallback

    peer: Any = importlib.import_module("trl")

    work = make_work(spec)
    rows = min(int(options.get("micro_batch", 16)), spec.sequences)
    iterations = 2 if spec.beta else 1
    device: str = options.get("device", "cpu")
    clocks: dict[str, list[float]] = {"cpu": [], "wall": []}
    score: dict[str, float] = {}
    steps: list[tuple[float, float]] = []
    began: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            began.append(read_clocks(device))
            clocks["cpu"], clocks["wall"] = [], []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            cpu, wall = began[-1]
            # The first micro-batch is made inside the step; that time is scoring, not part of the update.
            now_cpu, now_wall = read_clocks(device)
            steps.append((now_cpu - cpu - sum(clocks["cpu"]), now_wall - wall - sum(clocks["wall"])))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if len(steps) == iterations and "grad_norm" in logs:
                cpu, wall = np.mean(steps, axis=0).tolist()
                say(**score, update_cpu_s=cpu, update_wall_s=wall, gradient_norm=float(logs["grad_norm"]))
                steps.clear()

    with tempfile.TemporaryDirectory() as folder:
        name = options.get("model")
        start = Path(name or "")
        if name is None or not start.is_dir():
            start = Path(folder) / "start"  # TRL loads its reference from the folder of the policy
            make_model(spec, name).save_pretrained(start)
        config = peer.GRPOConfig(
            output_dir=folder, per_device_train_batch_size=rows, gradient_accumulation_steps=spec.sequences // rows,
            steps_per_generation=spec.sequences // rows, num_generations=GROUP, num_iterations=iterations,
            beta=spec.beta, epsilon=CLIP, max_completion_length=spec.longest, learning_rate=RATE,
            use_cpu=device == "cpu", bf16=spec.dtype == "bfloat16", activation_checkpointing=False, loss_type="grpo",
            max_steps=iterations * cycles, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            optim="adamw_torch", dataloader_num_workers=0, shuffle_dataset=False, lr_scheduler_type="constant",
            model_init_kwargs={"dtype": "float32"},
        )  # fmt: skip
        trainer: Any = peer.GRPOTrainer(
            model=str(start),
            reward_funcs=lambda completions, **_: work.rewards.tolist(),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": f"q{i}"} for i in range(max(spec.sequences, 64))]),
            processing_class=character_tokenizer(4096, pad_token=chr(FIRST), eos_token=chr(FIRST + 1)),
            rollout_func=lambda prompts, _: {
                "prompt_ids": work.prompts,
                "completion_ids": work.completions,
                "logprobs": [[-8.0] * len(ids) for ids in work.completions],
                "env_mask": work.masks,
            },
            callbacks=[Clock()],
        )
        inner = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            waiting = read_clocks(device)
            wait()
            cpu, wall = read_clocks(device)
            result = inner(inputs)
            end_cpu, end_wall = read_clocks(device)
            score["score_cpu_s"], score["score_wall_s"] = end_cpu - cpu, end_wall - wall
            clocks["cpu"].append(end_cpu - waiting[0])
            clocks["wall"].append(end_wall - waiting[1])
            return result

        trainer._generate_and_score_completions = timed
        say(ready=True)
        trainer.train()


def plain(spec: WorkSpec, options: dict[str, Any], model: Any | None = None) -> Callable[[], dict[str, float]]:
    """Make a function that does one update with Transformers and PyTorch alone, on padded rows and without a KL.

    Args:
        spec: the workload.
        options: `micro_batch`, the number of rollouts per forward pass.
        model: a model to use instead of the workload's own, on the CPU.
    """
    import torch

    work, rows = make_work(spec), int(options.get("micro_batch", 4))
    model = make_model(spec) if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    ids = [[*prompt, *completion] for prompt, completion in zip(work.prompts, work.completions, strict=True)]
    masks = [[0] * len(prompt) + mask for prompt, mask in zip(work.prompts, work.masks, strict=True)]

    def pad(lists: list[list[int]]) -> Any:
        width = max(map(len, lists))
        return torch.tensor([row + [0] * (width - len(row)) for row in lists])

    def cycle() -> dict[str, float]:
        start = read_clocks("cpu")
        optimizer.zero_grad(set_to_none=True)
        for first in range(0, len(ids), rows):
            part = slice(first, first + rows)
            ids_BT, mask_BT = pad(ids[part]), pad(masks[part])
            seen_BT = pad([[1] * len(row) for row in ids[part]])
            logits = model(ids_BT, attention_mask=seen_BT, use_cache=False).logits[:, :-1].float()
            chosen = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids_BT[:, 1:], reduction="none")
            weights = mask_BT[:, 1:] / mask_BT.sum(1, keepdim=True) / len(ids)
            advantages = torch.tensor(work.advantages[part], dtype=torch.float32)
            (advantages[:, None] * chosen * weights).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        end = read_clocks("cpu")
        return {**_spent([start, start, end]), "gradient_norm": float(norm)}

    return cycle


def main(argv: list[str]) -> int:
    """Run the side described by the JSON in `argv`."""
    job = json.loads(argv[0])
    spec, options, cycles = WorkSpec(**job["work"]), job.get("options", {}), int(job["cycles"])
    out: IO[str] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # library output must not mix with the protocol

    name, device = job.get("model"), job.get("device", "cpu")

    def say(**values: Any) -> None:
        print(json.dumps({**values, "peak_mib": round(peak_mib(device), 1)}), file=out, flush=True)

    def wait() -> None:
        if not sys.stdin.readline():
            raise SystemExit(1)

    import torch

    torch.set_num_threads(int(job.get("threads", 1)))
    if job["side"] == "trl":
        trl(spec, {**options, "model": name, "device": device}, cycles, wait, say)
        return 0
    side = plain if job["side"] == "plain" else ours
    cycle = side(spec, options, None if name is None and device == "cpu" else make_model(spec, name).to(device))
    say(ready=True)
    for _ in range(cycles):
        wait()
        say(**cycle())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
