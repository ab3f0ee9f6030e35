"""Training: `train_step` is one complete step of reinforcement learning, `train` runs all steps.

    questions -> groups of episodes -> rollouts -> samples -> advantages -> mini-batches -> loss -> optimizer updates

Intended differences from the paper's released code: the KL is added to the loss, not subtracted; training uses the
sampled token ids unchanged; the noise of a search and the choice of questions are functions of (seed, step); an episode
with a failed search is left out of the loss; mini-batches consist of whole groups, and their losses are normalised over
the whole mini-batch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.engines import SearchEngine, make_engine
from zerosearch_env.engines.base import try_engine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import TrainingError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise_kinds import read_noise_kinds
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm.chat_format import TurnEncoder
from zerosearch_env.llm.local.devices import check_device
from zerosearch_env.locks import locked
from zerosearch_env.types import Dataset

from ..config.agent import FORMAT_OPTIONS, RULE_OPTIONS
from ..config.train import TrainConfig
from ..forward.activations import checkpoint_activations
from ..forward.fsdp import copy_weights, make_place, wants_fsdp
from ..forward.mode import prepare_model
from ..objective.credit import assign_credit, credit_metrics, make_samples
from ..policy.card import model_context, token_limits
from ..policy.files import policy_path
from ..policy.lora import make_adapter, sampled_model
from ..policy.policy import Policy, load_policy, policy_to_train, save_policy
from ..processes.workers import (
    Workers,
    default_workers,
    join_workers,
    launch_rank,
    local_device,
)
from ..rollouts.async_rollouts import make_async_rollouts
from ..rollouts.rollout import Rollout
from ..runs.advice import describe_first_step
from ..runs.directory import prepare_output
from ..runs.metrics import read_metrics, rollout_metrics, staleness_metrics
from ..sampling.make import CHECK_PROMPTS, make_sampler, sampler_workers
from .curriculum import make_schedule, noise_level, split_groups
from .held_out import HeldOutResult, describe_held_out, is_due, make_held_out, play_held_out, split_held_out
from .logprobs import compute_logprobs
from .optimizer import flat_gradient, learning_rate, make_optimizer
from .provenance import run_provenance
from .run_files import RunFiles, record_start
from .step_rollouts import sample_step
from .update import Learner, UpdateStats, make_models, pause_sampler, refresh_sampler, update, update_metrics

_log = logging.getLogger(__name__)

StopCause = Literal["finished", "time", "interrupt"]
Decision = StopCause | Literal["alarm", "rollback"]


@dataclass(frozen=True)
class StepReport:
    """Passed to the callback of `train` after every step."""

    step: int
    """Steps finished."""
    steps: int
    """Steps of the whole run."""
    metrics: dict[str, float]
    """The step's metrics (`docs/metrics.md`)."""
    seconds: float
    """Wall time of the run so far, resumed parts included, in seconds."""
    alarms: tuple[str, ...] = ()
    """Messages of the alarms raised by this step."""


@dataclass(frozen=True)
class TrainResult:
    """Result of a run."""

    output: Path
    """The run directory."""
    policy: Policy
    """The trained policy; also on disk in `output / "policy"`."""
    step: int
    """Steps finished."""
    stopped: StopCause
    """Why it ended: all steps done, the time limit, or Ctrl-C (also SIGTERM)."""
    seconds: float
    """Wall time of the run, resumed parts included, in seconds."""
    updates: int
    """Updates made, resumed parts included; counted by process 0, and 0 in the others."""


def train_step(learner: Learner, step: int) -> tuple[dict[str, float], list[list[Rollout]]]:
    """One step: sample groups of rollouts, turn rewards into advantages, update the policy once per mini-batch.

    Args:
        learner: its policy, optimizer and sampler are modified.
        step: the 0-based step; together with the seed it determines everything random.

    Returns:
        The step's metrics, and its rollouts grouped by question.
    """
    config, algorithm = learner.config, learner.config.algorithm
    began = time.perf_counter()
    level = noise_level(learner.schedule, step, config.steps)
    collected = sample_step(learner, step, level)
    pause_sampler(learner)
    sampled = time.perf_counter()
    if step == 0 and learner.workers.rank == 0:
        _report_first_step(learner, collected.groups, sampled - began)

    samples = make_samples(collected.trained, mask_overlong=algorithm.mask_overlong)
    samples = assign_credit(algorithm, compute_logprobs(learner, samples))
    rate = learning_rate(config, step)
    critic_only = learner.critic is not None and step < config.critic.warmup_steps
    stats: list[UpdateStats] = []
    for epoch in range(algorithm.epochs):
        for members in split_groups(len(samples), algorithm.minibatches, config.seed, step, epoch):
            batch = [sample for group in members for sample in samples[group]]
            stat = update(learner, batch, rate, critic_only=critic_only)
            stats += [] if stat is None else [stat]
    refresh_sampler(learner, step + 1)

    ended = time.perf_counter()
    groups = collected.groups
    tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
    metrics = rollout_metrics(groups) | credit_metrics(algorithm, samples) | update_metrics(learner, stats, rate)
    if config.rollout.max_staleness:
        metrics |= staleness_metrics([sample.rollout for group in samples for sample in group], step)
    if algorithm.dynamic_sampling_rounds:
        metrics |= {"sampling_rounds": float(collected.rounds), "kept_groups": float(len(collected.trained))}
    metrics |= {"noise_level": level, "tokens_per_second": tokens / (ended - began), "seconds": ended - began}
    return metrics | {"rollout_seconds": sampled - began, "update_seconds": ended - sampled}, groups


def _report_first_step(learner: Learner, groups: list[list[Rollout]], seconds: float) -> None:
    """Logs what the first episodes are like, before hours are spent on more of them."""
    lines, warnings = describe_first_step(
        groups, context_tokens=learner.sampler.context_tokens, seconds=seconds, steps=learner.config.steps
    )
    for line in lines:
        _log.info("%s", line)
    for line in warnings:
        _log.warning("%s", line)


def train(
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    engine: SearchEngine | None = None,
    callback: Callable[[StepReport], None] | None = None,
    resume: bool = False,
    force: bool = False,
    overwrite: bool = False,
) -> TrainResult:
    """Trains a policy and writes the run directory `config.output`.

    Under torchrun every process calls it with the same arguments; process 0 writes the files and calls the callback.

    The first Ctrl-C or SIGTERM ends the run after the current step and saves everything; a second Ctrl-C ends it
    immediately (`KeyboardInterrupt`).

    Args:
        config: the configuration of the run.
        dataset: questions and passages to use instead of `config.data`; must be the same when a run is resumed.
        engine: a search engine to use instead of `config.environment.search_engine`; with several workers it must be
            picklable.
        callback: called after every step, in the calling process.
        resume: continue from the newest valid checkpoint in `config.output`.
        force: resume even if the configuration, the data, the policy or this package differ from those of the run.
        overwrite: if the directory holds a run, remove it and start a new one.

    Raises:
        ConfigError: the configuration cannot be used, or the output directory already holds a run, or another process
            writes it.
        CheckpointError: there is nothing valid to resume, or the saved run had a different configuration or other data.
        TrainingError: the run cannot continue, or an alarm stops it (`alarms.action`).
    """
    began = time.perf_counter()
    output = Path(config.output)
    with contextlib.ExitStack() as stack:
        if launch_rank() == 0:  # the other processes wait for this when they join
            if output.is_dir() or not resume:
                stack.enter_context(locked(output))
            prepare_output(output, config, resume=resume, force=force, overwrite=overwrite)
        interrupted = stack.enter_context(interrupt_flag())
        workers = stack.enter_context(_join_workers(config, dataset, engine, force))
        learner = build_learner(config, workers, dataset, engine)
        with closing(learner), RunFiles(output, learner, began) as files:
            record_start(output, learner, force=force)
            step, cause = _loop(learner, files, interrupted, callback if workers.rank == 0 else None)
            seconds = files.seconds
        if cause == "alarm":
            raise TrainingError(files.stop_message(step))
        policy = finished_policy(learner)
        if workers.rank == 0:
            records = [record for record in read_metrics(output / "metrics.jsonl") if record["step"] == step]
            provenance = run_provenance(config, step, records[-1] if records else {})
            save_policy(policy, output / "policy", provenance=provenance)
            files.write_report()
            if step and not files.updates:
                _log.warning("0 updates were made in %d steps: the policy is the one that the run began with.", step)
    return TrainResult(output, policy, step, cause, seconds, files.updates)


def _join_workers(
    config: TrainConfig, dataset: Dataset | None, engine: SearchEngine | None, force: bool
) -> AbstractContextManager[Workers]:
    """The processes of this run."""
    default = sampler_workers(config) or default_workers(policy_path(config.policy), config.device)
    return join_workers(config.workers, default, config.device, run_worker, config, dataset, engine, force)


def run_worker(
    workers: Workers, config: TrainConfig, dataset: Dataset | None, engine: SearchEngine | None, force: bool
) -> None:
    """Main function of the workers started by `start_workers`: runs the same steps; worker 0 writes the files."""
    learner = build_learner(config, workers, dataset, engine)
    with closing(learner), RunFiles(Path(config.output), learner, time.perf_counter()) as files:
        record_start(Path(config.output), learner, force=force)
        _, cause = _loop(learner, files, threading.Event(), None)
    if cause != "alarm":
        finished_policy(learner)


def _loop(
    learner: Learner,
    files: RunFiles,
    interrupted: threading.Event,
    callback: Callable[[StepReport], None] | None,
) -> tuple[int, StopCause | Literal["alarm"]]:
    """Runs all steps after the newest checkpoint; returns the steps finished and the cause. Every worker calls it."""
    step = _restore(learner, files)
    while (cause := _decide(learner, step, interrupted, files)) is None or cause == "rollback":
        if cause == "rollback":
            step = _restore(learner, files)
            continue
        metrics, groups = train_step(learner, step)
        step += 1
        held_out = evaluate_held_out(learner, step)
        alarms = tuple(map(str, files.record(step, metrics, groups, held_out)))
        metrics |= {} if held_out is None else held_out.metrics
        if callback is not None:
            callback(StepReport(step, learner.config.steps, metrics, files.seconds, alarms))
    files.checkpoint(step)
    return step, cause


def _restore(learner: Learner, files: RunFiles) -> int:
    """Continues after the newest checkpoint; at the start of the run, with the evaluation before training."""
    step = files.restore()
    if not files.evaluated:
        files.record_first_evaluation(evaluate_held_out(learner, 0))
    return step


def evaluate_held_out(learner: Learner, step: int) -> HeldOutResult | None:
    """The evaluation after `step` finished steps; None if none is due. Every worker calls it."""
    if learner.held_out is None or not is_due(learner.config, step):
        return None
    result = play_held_out(learner.held_out, learner.rules, learner.sampler, learner.policy, learner.workers)
    if learner.workers.rank == 0:
        line = describe_held_out(result.metrics, learner.held_out.levels)
        _log.info("%s, %s", f"after step {step}" if step else "before training", line)
    return result


_CAUSES: tuple[Decision | None, ...] = (None, "finished", "time", "interrupt", "alarm", "rollback")


def _decide(learner: Learner, step: int, interrupted: threading.Event, files: RunFiles) -> Decision | None:
    """The reason not to run this step, or None. Worker 0 decides, so all workers stop or roll back at the same step.

    Alarms are computed from the recorded metrics, so a resumed run decides like a run that was never interrupted.
    """
    limit, action = learner.config.max_seconds, learner.config.alarms.action
    cause: Decision | None = None
    alarmed = action in ("stop", "rollback") and bool(files.alarms)
    if step >= learner.config.steps and not alarmed:
        cause = "finished"
    elif interrupted.is_set():
        cause = "interrupt"
    elif alarmed:
        turned = action == "rollback" and files.roll_back(step)
        cause = "rollback" if turned else "alarm"
    elif limit is not None and files.session_seconds >= limit:
        cause = "time"
    return _CAUSES[learner.workers.agree(_CAUSES.index(cause))]


def build_learner(
    config: TrainConfig, workers: Workers, dataset: Dataset | None = None, engine: SearchEngine | None = None
) -> Learner:
    """Loads the policy and the data, and builds everything that a step needs.

    Args:
        config: the run's configuration.
        workers: this worker's handle to all workers; `Workers()` for a single one.
        dataset: used instead of `config.data`.
        engine: used instead of `config.environment.search_engine`.
    """
    environment, settings = config.environment, config.rollout
    device, sharded = check_device(local_device(config.device)), wants_fsdp(config, workers)
    # A model that will be sharded is loaded on the CPU; each process moves only its part to the device.
    policy = load_policy(policy_path(config.policy), device="cpu" if sharded else device)
    given = make_rules(
        **environment.given(RULE_OPTIONS),
        reward=environment.reward,
        scores=environment.scores,
        noise_unit=environment.noise_unit,
    )
    limits = {"turn_tokens": settings.turn_tokens, "context_tokens": settings.context_tokens}
    policy, rules, notes = policy_to_train(policy, config.policy, given, limits | environment.given(FORMAT_OPTIONS))
    if workers.rank == 0:
        for note in notes:
            _log.warning("%s", note)
    card = policy.card
    tokens = token_limits(card, rules.protocol, model_context(policy.model.config))
    mode = prepare_model(policy.model, config, tokens.context_tokens)
    adapter = make_adapter(policy.model, config)
    given_data = dataset is not None
    if dataset is None:
        data = config.data
        dataset = data.load(data.dataset, data.split, world=data.world, limit=data.limit)
    dataset, held_out = split_held_out(config, dataset, given=given_data)
    for part in (dataset, held_out):
        check_prompts(rules, () if part is None else part.questions)
    place = make_place(workers, device) if sharded else None
    models = make_models(policy, config, place)
    if place is not None:
        policy.model.to(device=device, dtype=getattr(torch, config.scale.sampler_dtype))  # type: ignore[call-arg]
    first = [Episode(question, rules) for question in dataset.questions[:CHECK_PROMPTS]]
    sampler = make_sampler(
        config,
        replace(policy, model=sampled_model(policy.model, adapter)),
        workers,
        tokens=tokens,
        stop_strings=rules.protocol.stop_strings,
        prompts=TurnEncoder(policy.tokenizer, rules, card.format).prompts(first),
    )
    with contextlib.ExitStack() as if_refused:
        if_refused.callback(sampler.close)
        plain = make_engine(environment.search_engine if engine is None else engine, dataset=dataset)
        if engine is None:
            if_refused.callback(plain.close)
        kinds = read_noise_kinds(environment.noise_kind)
        search = add_noise_kinds(plain, kinds, dataset.questions)
        if workers.rank == 0:
            try_engine(search, dataset.questions, rules.top_k)
        learner = Learner(
            config=config,
            policy=replace(policy, model=models.policy),
            reference=models.reference,
            critic=models.critic,
            optimizer=make_optimizer(models.policy, config),
            gradient=flat_gradient(models.policy),
            sampler=sampler,
            engine=search,
            owns_engine=engine is None,
            dataset=dataset,
            held_out=make_held_out(config, held_out, plain, dataset, given=engine is not None),
            rules=rules,
            schedule=make_schedule(config.curriculum),
            noise_kinds=kinds,
            workers=workers,
            mode=mode,
            adapter=adapter,
            full_copy=policy.model if sharded else None,
            async_rollouts=make_async_rollouts(config, sampler, search, policy, workers),
        )
        if_refused.pop_all()
    return learner


def finished_policy(learner: Learner) -> Policy:
    """The trained policy: unsharded, adapters merged, without the learner's gradients and attention implementation.

    All workers must call it together.
    """
    model: Any = learner.policy.model
    if learner.adapter is not None:
        model = learner.adapter.unload()
    elif learner.full_copy is not None:
        model = learner.full_copy
        if model.dtype != torch.float32:  # full precision is converted on the CPU, which has room for it
            model = model.to("cpu").float()
        copy_weights(learner.policy.model, model)
    learner.policy.model.zero_grad(set_to_none=True)
    model.set_attn_implementation("sdpa")
    if learner.mode.checkpointing and learner.mode.packing != "sequences":
        checkpoint_activations(model, False)
    return replace(learner.policy, model=model)


@contextmanager
def interrupt_flag() -> Iterator[threading.Event]:
    """An event set by the first Ctrl-C or SIGTERM; the second one acts as usual. It needs the main thread.

    In another thread the event is never set.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        flag.set()
        restore()
        # os.write, because the handler may run in the middle of a print
        os.write(2, b"\nstopping after this step, with everything saved (press Ctrl-C again to stop immediately)\n")

    for number in before:
        signal.signal(number, handle)
    try:
        yield flag
    finally:
        restore()
