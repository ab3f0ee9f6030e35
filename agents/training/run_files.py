"""Writes and reads the run directory: configuration, metrics, transcripts, rollbacks, checkpoints, policy, logs."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from zerosearch_env.engines.registry import engine_identity
from zerosearch_env.errors import CheckpointError, sentence
from zerosearch_env.files import sync, write_text
from zerosearch_env.identity import changes, dataset_identity, folder_hash, package_identity
from zerosearch_env.loading import code_identity
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record

from ..config.train import TrainConfig, dump_config, flatten_config
from ..forward.fsdp import copy_share
from ..policy.files import one_line, policy_path
from ..policy.lora import sampled_model
from ..policy.policy import Policy, save_policy, write_policy
from ..rollouts.rollout import Rollout
from ..runs.advice import no_update_warning
from ..runs.alarms import Alarm, after_rollbacks, find_alarms, last_good_step
from ..runs.checkpoint import RunState, checkpoint_paths, save_checkpoint, weights_hash
from ..runs.directory import BEST_FOLDER, CONTENTS_FILE
from ..runs.loggers import make_loggers
from ..runs.metrics import MetricsLog, best_evaluation, read_metrics, recorded
from ..runs.output import REPORT_FILE, TRANSCRIPTS_FILE
from ..runs.rollbacks import Rollback, is_current, read_rollbacks, record_rollback
from .critic import split_weights, with_critic
from .held_out import HeldOutResult
from .provenance import run_provenance
from .sharded_checkpoint import find_newest, load_shards, read_checkpoint, save_shards, spread_optimizer
from .update import Learner, refresh_sampler

_log = logging.getLogger(__name__)

_START = RunState(step=0, metrics_bytes=0, transcripts_bytes=0, initial_policy="", seconds=0.0)


def record_start(output: Path, learner: Learner, *, force: bool) -> None:
    """Compares what a run is made from with its record, and writes the record: contents, then configuration.

    Nothing is written earlier, so a start that fails (no such dataset, for example) does not block the next one. All
    workers must call it together.

    Args:
        output: the run directory, prepared.
        learner: built from the run's configuration.
        force: continue with other contents; they become the run's record.

    Raises:
        CheckpointError: something has changed since the run began, and `force` is not set.
    """
    problem = None
    if learner.workers.rank == 0:
        file, now = output / CONTENTS_FILE, _contents(learner)
        different = changes(_read_contents(file), now) if checkpoint_paths(output / "checkpoints") else []
        if different and not force:
            problem = (
                f"since the run in {output} began, {'; '.join(different)}. Force it to continue regardless (--force)."
            )
        else:
            write_text(file, json.dumps(now, indent=2) + "\n")
            write_text(output / "config.toml", dump_config(learner.config))
    problem = learner.workers.gather(problem)[0]
    if problem is not None:
        raise CheckpointError(problem)


def _contents(learner: Learner) -> dict[str, str]:
    """The record of a run: its questions, engine and policy, and the code that its options name."""
    config = learner.config
    return {
        **dataset_identity(learner.dataset),
        **_held_out_identity(learner),
        **engine_identity(learner.engine, config.environment.search_engine),
        f"the policy {config.policy}": folder_hash(policy_path(config.policy)),
        **code_identity(flatten_config(config).values()),
    }


def _held_out_identity(learner: Learner) -> dict[str, str]:
    """The record of the questions, and the engine if it has another one, of the evaluations."""
    held_out = learner.held_out
    if held_out is None:
        return {}
    engine = engine_identity(held_out.engine) if held_out.owns_engine else {}
    record = dataset_identity(held_out.dataset) | engine
    return {f"{name}, held out": value for name, value in record.items() if name not in package_identity()}


def _read_contents(file: Path) -> dict[str, str]:
    """The record in a file; empty if there is none, or if it is damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def learner_weights(learner: Learner) -> dict[str, Tensor]:
    """The trained parameters by name; tied parameters appear once. With adapters, only the adapters' parameters."""
    return {name: p.data for name, p in learner.policy.model.named_parameters() if p.requires_grad}


def current_policy(learner: Learner) -> Policy:
    """The policy as it is now, to be saved: with adapters merged; of a sharded model the full copy.

    It shares its weights with the learner.
    """
    model = sampled_model(learner.policy.model, learner.adapter) if learner.full_copy is None else learner.full_copy
    return replace(learner.policy, model=model)


def restore_learner(learner: Learner, output: Path, config: TrainConfig) -> RunState:
    """Loads the newest valid checkpoint into a learner; without any checkpoint the run is at its start.

    Episodes played in advance are dropped. After a rollback the learner continues with another seed and a lower
    learning rate (`alarms.after_rollbacks`).

    A critic that the saved run did not have (because a resume was forced with another algorithm) starts from scratch.

    Args:
        learner: its weights, optimizers and configuration are modified.
        output: the run directory.
        config: the run's own configuration, before any rollback.

    Raises:
        CheckpointError: no checkpoint is valid, it does not fit the model, or the KL's reference has changed.
    """
    weights = learner_weights(learner)
    frozen = {} if learner.reference is None else dict(learner.reference.named_parameters())
    # With adapters the reference is the policy itself; its adapters change and are not part of the reference.
    initial = weights_hash({name: p for name, p in frozen.items() if not p.requires_grad}) if frozen else ""
    rollbacks = read_rollbacks(output)
    learner.config, learner.skipped = after_rollbacks(config, len(rollbacks)), 0
    if learner.async_rollouts is not None:
        learner.async_rollouts.reset()
    newest = find_newest(output / "checkpoints", lambda state: is_current(state, rollbacks), learner.workers)
    if newest is None:
        return replace(_START, initial_policy=initial)
    path, checkpoint = newest
    if checkpoint.weights is not None:
        saved, saved_critic = split_weights(checkpoint.weights)
        if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in weights.items()}:
            raise CheckpointError(f"{path} belongs to another model than {learner.config.policy!r}.")
        critic = learner.critic if saved_critic else None
        if critic is not None and {k: v.shape for k, v in saved_critic.items()} != {
            k: v.shape for k, v in critic.weights().items()
        }:
            raise CheckpointError(
                f'{path} holds a critic of another shape than critic.trunk = "{learner.config.critic.trunk}".'
            )
    state = checkpoint.state
    if state.initial_policy and initial and state.initial_policy != initial:
        raise CheckpointError(
            f"{learner.config.policy!r} is not the policy that the run in {output} began with, so its KL would be "
            "measured against another reference."
        )
    if checkpoint.weights is None or checkpoint.optimizer is None:
        load_shards(path, learner)
    else:
        for name, value in weights.items():
            copy_share(saved[name], value)
        for name, value in critic.weights().items() if critic is not None else ():
            copy_share(saved_critic[name], value)
        critic_state = checkpoint.optimizer.pop("critic", None)
        load = spread_optimizer if learner.full_copy is not None else _load_optimizer
        load(checkpoint.optimizer, learner.optimizer)
        if critic is not None:
            load(critic_state, critic.optimizer)
    refresh_sampler(learner, state.step)
    return state


def _load_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(dict(saved))


class RunFiles:
    """Writes the files of a running run. A context manager.

    Every worker has one and makes the same calls. Worker 0 writes; all workers write checkpoints of sharded models.

    Args:
        output: the run directory, prepared.
        learner: its state is saved.
        began: `time.perf_counter()` at the start of this session.
    """

    def __init__(self, output: Path, learner: Learner, began: float) -> None:
        self._output = output
        self._learner = learner
        self._began = began
        self._state = _START
        self._saved_step = -1
        self._metrics: MetricsLog | None = None
        self._config = learner.config
        self._history: list[dict[str, float]] = []
        self._rollbacks = 0

    @property
    def session_seconds(self) -> float:
        """Wall time of this session, in seconds."""
        return time.perf_counter() - self._began

    @property
    def seconds(self) -> float:
        """Wall time of the run in seconds: up to the checkpoint it was resumed from, plus this session."""
        return self._state.seconds + self.session_seconds

    def restore(self) -> int:
        """Loads the newest checkpoint into the learner, truncates the logs to it, and returns the steps finished."""
        state = restore_learner(self._learner, self._output, self._config)
        # time spent on steps that a rollback undoes still counts
        self._state = state if self._metrics is None else replace(state, seconds=self._state.seconds)
        self._rollbacks = len(read_rollbacks(self._output))
        self.close()
        self._saved_step = state.step or -1
        if self._learner.workers.rank == 0:
            self._open_logs(state)
        if state.step == 0 and self._config.alarms.action in ("stop", "rollback"):
            self.checkpoint(0)  # an alarm may be raised before the first regular checkpoint
        return state.step

    def _open_logs(self, state: RunState) -> None:
        """Opens the logs, truncated to a checkpoint."""
        others = make_loggers(self._output, self._config, state.step)
        self._metrics = MetricsLog(self._output / "metrics.jsonl", others=others, keep=state.metrics_bytes)
        self._history = read_metrics(self._output / "metrics.jsonl")
        transcripts = self._output / TRANSCRIPTS_FILE
        transcripts.touch()
        os.truncate(transcripts, min(state.transcripts_bytes, transcripts.stat().st_size))

    @property
    def evaluated(self) -> bool:
        """Whether the restored metrics begin with the evaluation before the first step. Known to every worker."""
        return self._state.step > 0 or self._state.metrics_bytes > 0

    def record_first_evaluation(self, held_out: HeldOutResult | None) -> None:
        """Writes the evaluation before the first step, if there was one, as the metrics of step 0."""
        if self._metrics is None or held_out is None:
            return
        with self._writing():
            self._history.append(recorded(0, held_out.metrics))
            self._metrics.write(0, held_out.metrics)
            self._write_evaluation(0, held_out)

    def record(
        self,
        step: int,
        metrics: Mapping[str, float],
        groups: Sequence[Sequence[Rollout]],
        held_out: HeldOutResult | None = None,
    ) -> list[Alarm]:
        """Writes the metrics and transcripts of a finished step (1-based), and a checkpoint if one is due.

        If there was an evaluation after the step, its metrics are written with those of the step, and the policy is
        kept if it is the best so far.

        Returns:
            The alarms raised by this step.

        Raises:
            CheckpointError: something cannot be written; all earlier checkpoints still exist.
        """
        files = self._config.files
        with self._writing():
            if held_out is not None:
                metrics = {**metrics, **held_out.metrics}
            alarms = [] if self._metrics is None else self._record(self._metrics, step, metrics, groups)
            if held_out is not None and self._metrics is not None:
                self._write_evaluation(step, held_out)
            if files.checkpoint_every and step % files.checkpoint_every == 0:
                self.checkpoint(step)
        return alarms

    def _record(
        self, log: MetricsLog, step: int, metrics: Mapping[str, float], groups: Sequence[Sequence[Rollout]]
    ) -> list[Alarm]:
        files = self._config.files
        earlier = {alarm.field for alarm in self.alarms}
        self._history.append(recorded(step, metrics))
        alarms = self.alarms
        extra: dict[str, float] = {} if self._config.alarms.action == "off" else {"alarms": float(len(alarms))}
        if self._rollbacks:
            extra["rollbacks"] = float(self._rollbacks)
        self._history[-1] |= extra
        log.write(step, {**metrics, **extra})
        if warning := no_update_warning(self._history, self._config.rollout.group_size):
            _log.warning("%s", warning)
        if files.transcripts_every and (step == 1 or step % files.transcripts_every == 0):
            self._write_transcripts(step, groups, files.transcripts)
        return [alarm for alarm in alarms if alarm.field not in earlier]

    def _write_evaluation(self, step: int, held_out: HeldOutResult) -> None:
        """Writes some transcripts of an evaluation that is in the history, and keeps the policy if it is the best."""
        files = self._config.files
        if files.transcripts_every:
            with TranscriptWriter(self._output / TRANSCRIPTS_FILE) as writer:
                for episode in held_out.episodes[: files.transcripts]:
                    writer.write(transcript_record(episode, step=step, held_out=True))
        undone = [record for rollback in read_rollbacks(self._output) for record in rollback.undone]
        if best_evaluation([*undone, *self._history]) is self._history[-1]:
            provenance = run_provenance(self._config, step, self._history[-1])
            save_policy(current_policy(self._learner), self._output / BEST_FOLDER, provenance=provenance)
        self.write_report()

    def write_report(self) -> None:
        """Writes `report.html` in the worker that writes logs. A page that fails is reported and ends no run."""
        if self._metrics is None:
            return
        from ..report.page import write_report  # when it is needed: it loads what evaluations use

        try:
            write_report(self._output)
        except Exception as error:
            _log.warning("%s could not be written: %s", self._output / REPORT_FILE, one_line(error))

    @property
    def alarms(self) -> list[Alarm]:
        """The alarms that are currently raised."""
        return find_alarms(self._config.alarms, self._history)

    @property
    def updates(self) -> int:
        """Updates made in all steps of the run so far; 0 in workers that write no logs."""
        return int(sum(record.get("updates", 0.0) for record in self._history))

    def roll_back(self, step: int) -> bool:
        """Undoes everything since the newest checkpoint from before the alarm; `restore` continues from there.

        Returns:
            False, with nothing changed, if there is no such checkpoint or no rollback is left.
        """
        good = last_good_step(self._config.alarms, step)
        if self._rollbacks >= self._config.alarms.max_rollbacks:
            return False
        for path in reversed(checkpoint_paths(self._output / "checkpoints")):
            try:
                to_step = read_checkpoint(path).state.step
            except CheckpointError:
                continue  # damaged: use an older one
            if to_step <= good:
                undone = [record for record in self._history if record["step"] > to_step]
                alarm = "; ".join(map(str, self.alarms))
                with self._writing():
                    record_rollback(self._output, Rollback(alarm, step, to_step, undone))
                return True
        return False

    def stop_message(self, step: int) -> str:
        """The message of a run that an alarm has stopped, with the options to continue."""
        alarms, again = self._config.alarms, f"zerosearch train --resume {self._output}"
        ending = f"stopped after {step} steps by an alarm: {'; '.join(map(str, self.alarms))}. Everything is saved."
        ignore = f"continue regardless with {again} --alarms.action warn"
        if alarms.action == "stop":
            return f"{ending} Go back to before it with {again} --alarms.action rollback, or {ignore}."
        if self._rollbacks >= alarms.max_rollbacks:
            why = f"The run has been rolled back {self._rollbacks} times already (alarms.max_rollbacks)"
        else:
            why = f"No checkpoint of {last_good_step(alarms, step)} steps or fewer is left to go back to"
        return f"{ending} {why}: start again with a lower optimizer.learning_rate, or {ignore}."

    def checkpoint(self, step: int) -> None:
        """Saves everything needed to continue after `step` finished steps; does nothing if it is saved already."""
        if step == self._saved_step:
            return
        learner, folder = self._learner, self._output / "checkpoints"
        state, keep = self._state_after(step), self._keep(step)
        if learner.full_copy is not None:
            save_shards(folder, state, learner, keep=keep)
        elif state is not None:
            critic, optimizer = learner.critic, learner.optimizer.state_dict()
            weights = with_critic(learner_weights(learner), critic)
            if critic is not None:
                optimizer |= {"critic": critic.optimizer.state_dict()}
            save_checkpoint(
                folder,
                state,
                weights,
                optimizer,
                keep=keep,
                write_policy=lambda directory: write_policy(
                    current_policy(learner), directory, provenance=run_provenance(self._config, step, {})
                ),
            )
        self._saved_step = step

    def _state_after(self, step: int) -> RunState | None:
        """The state of the run, with its logs synced to disk; None in workers that write no logs."""
        if self._metrics is None:
            return None
        transcripts = self._output / TRANSCRIPTS_FILE
        sync(transcripts)
        return RunState(
            step=step,
            metrics_bytes=self._metrics.sync(),
            transcripts_bytes=transcripts.stat().st_size,
            initial_policy=self._state.initial_policy,
            seconds=self.seconds,
            rollbacks=self._rollbacks,
        )

    def _keep(self, step: int) -> int:
        """Number of checkpoints to keep: as many as configured, plus those that a later rollback may need."""
        files, alarms = self._config.files, self._config.alarms
        if alarms.action not in ("stop", "rollback"):
            return files.keep_checkpoints
        good = last_good_step(alarms, step)
        steps = {
            step,
            *(int(path.name.removeprefix("step-")) for path in checkpoint_paths(self._output / "checkpoints")),
        }
        return max(files.keep_checkpoints, 1 + sum(saved_step > good for saved_step in steps))

    def _write_transcripts(self, step: int, groups: Sequence[Sequence[Rollout]], count: int) -> None:
        """Writes the first member of every group, then the second, and so on, if this process has their episodes."""
        by_member = [rollout for members in zip(*groups, strict=True) for rollout in members]
        episodes = [rollout.episode for rollout in by_member if rollout.episode is not None]
        with TranscriptWriter(self._output / TRANSCRIPTS_FILE) as writer:
            for episode in episodes[:count]:
                writer.write(transcript_record(episode, step=step))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed write into a `CheckpointError` that says how to continue."""
        try:
            yield
        except OSError as cause:
            raise CheckpointError(
                f"the run in {self._output} could not be written: {sentence(one_line(cause))} Its checkpoints are "
                f"untouched; make room and continue with: zerosearch train --resume {self._output}"
            ) from cause

    def close(self) -> None:
        """Closes the logs."""
        if self._metrics is not None:
            self._metrics.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
