"""The run directory: configuration, metrics, transcripts, rollbacks, checkpoints, the policy, TensorBoard's events."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from zerosearch_env.errors import CheckpointError, ConfigError
from zerosearch_env.privacy import HIDDEN
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record

from ..config.train import TrainConfig, config_differences, dump_config, flatten_config, read_config
from ..forward.fsdp import copy_share
from ..policy.files import one_line
from ..rollouts.rollout import Rollout
from ..runs.alarms import Alarm, after_rollbacks, find_alarms, last_good_step
from ..runs.checkpoint import RunState, checkpoint_paths, fingerprint, save_checkpoint
from ..runs.loggers import WANDB_ID_FILE, make_loggers
from ..runs.metrics import MetricsLog, read_metrics, recorded
from ..runs.rollbacks import ROLLBACKS_FILE, Rollback, is_current, read_rollbacks, record_rollback, remove_given_up
from .critic import split_weights, with_critic
from .sharded_checkpoint import find_newest, load_shards, read_found, save_shards, spread_optimizer
from .update import Learner, refresh_sampler

RUN_FILES = (
    "config.toml",
    "metrics.jsonl",
    "transcripts.jsonl",
    ROLLBACKS_FILE,
    "checkpoints",
    "policy",
    "tensorboard",
    "wandb",
    WANDB_ID_FILE,
    "sync",
)
"""What a run writes into its directory."""

_START = RunState(step=0, metrics_bytes=0, transcripts_bytes=0, initial_policy="", seconds=0.0)


def prepare_output(output: Path, config: TrainConfig, *, resume: bool, force: bool, overwrite: bool) -> None:
    """Makes the run directory ready and saves the configuration in it; an existing run stays unless told otherwise.

    Raises:
        ConfigError: when a new run is to begin where one is already, or a value lacks its credentials.
        CheckpointError: when there is no run to resume, or it had another configuration and `force` is not set.
    """
    saved = output / "config.toml"
    for name, value in flatten_config(config).items():
        if isinstance(value, str) and HIDDEN in value:
            raise ConfigError(
                f"{name} is {value!r}: its credentials are not kept in {saved}. Give the whole value again, or put "
                "them into the environment variable that the engine reads."
            )
    if resume:
        if not saved.is_file():
            raise CheckpointError(f"there is no run to resume in {output}: it has no config.toml.")
        differences = config_differences(read_config(saved), config)
        if differences and not force:
            raise CheckpointError(
                f"the run in {output} had another configuration: {'; '.join(differences)}. "
                "Resume without these options, or force it."
            )
        remove_given_up(output)
    else:
        existing = [name for name in RUN_FILES if (output / name).exists()]
        if existing and not overwrite:
            raise ConfigError(
                f"{output} already holds a run ({', '.join(existing)}): "
                "resume it, choose another output, or overwrite it."
            )
        for name in existing:
            shutil.rmtree(output / name) if (output / name).is_dir() else (output / name).unlink()
    output.mkdir(parents=True, exist_ok=True)
    new = output / ".config.toml.new"
    new.write_text(dump_config(config), encoding="utf-8")
    os.replace(new, saved)


def learner_weights(learner: Learner) -> dict[str, Tensor]:
    """The trained parameters by name, shared ones once; with adapters these alone."""
    return {name: p.data for name, p in learner.policy.model.named_parameters() if p.requires_grad}


def restore_learner(learner: Learner, output: Path, config: TrainConfig) -> RunState:
    """Puts the newest valid checkpoint into a learner; a run without any is at its start.

    What is played ahead is dropped. After a rollback the learner goes on with another seed and a lower learning rate
    (`alarms.after_rollbacks`).

    A critic that the saved run did not have (a resume that was forced to another algorithm) begins anew.

    Args:
        learner: whose weights, optimizers and configuration change.
        output: the run directory.
        config: the run's own configuration, before any rollback.

    Raises:
        CheckpointError: when no checkpoint is valid, it does not fit the model, or the KL's reference has changed.
    """
    weights = learner_weights(learner)
    frozen = {} if learner.reference is None else dict(learner.reference.named_parameters())
    # With adapters the reference is the policy itself, whose adapters change: they are no part of it.
    initial = fingerprint({name: p for name, p in frozen.items() if not p.requires_grad}) if frozen else ""
    rollbacks = read_rollbacks(output)
    learner.config, learner.skipped = after_rollbacks(config, len(rollbacks)), 0
    if learner.ahead is not None:
        learner.ahead.reset()
    newest = find_newest(output / "checkpoints", lambda state: is_current(state, rollbacks))
    if newest is None:
        return replace(_START, initial_policy=initial)
    path, found = newest
    if found.weights is not None:
        saved, saved_critic = split_weights(found.weights)
        if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in weights.items()}:
            raise CheckpointError(f"{path} belongs to another model than {learner.config.policy!r}.")
        critic = learner.critic if saved_critic else None
        if critic is not None and {k: v.shape for k, v in saved_critic.items()} != {
            k: v.shape for k, v in critic.weights().items()
        }:
            raise CheckpointError(
                f'{path} holds a critic of another shape than critic.trunk = "{learner.config.critic.trunk}".'
            )
    state = found.state
    if state.initial_policy and initial and state.initial_policy != initial:
        raise CheckpointError(
            f"{learner.config.policy!r} is not the policy that the run in {output} began with, so its KL would be "
            "measured against another reference."
        )
    if found.weights is None or found.optimizer is None:
        load_shards(path, learner)
    else:
        for name, value in weights.items():
            copy_share(saved[name], value)
        for name, value in critic.weights().items() if critic is not None else ():
            copy_share(saved_critic[name], value)
        critic_state = found.optimizer.pop("critic", None)
        load = spread_optimizer if learner.full_copy is not None else _load_optimizer
        load(found.optimizer, learner.optimizer)
        if critic is not None:
            load(critic_state, critic.optimizer)
    refresh_sampler(learner, state.step)
    return state


def _load_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(dict(saved))


class RunFiles:
    """What is written while a run goes on: by worker 0, and checkpoints of sharded models by all. A context manager.

    Every worker has one and makes the same calls.

    Args:
        output: the run directory, prepared.
        learner: whose state is saved.
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
        """Wall time of the run up to the last checkpoint it was resumed from, and of this session, in seconds."""
        return self._state.seconds + self.session_seconds

    def restore(self) -> int:
        """Puts the newest checkpoint into the learner, cuts the logs back to it, and returns the steps finished."""
        state = restore_learner(self._learner, self._output, self._config)
        # the time of steps that a rollback gives up has been spent all the same
        self._state = state if self._metrics is None else replace(state, seconds=self._state.seconds)
        self._rollbacks = len(read_rollbacks(self._output))
        self.close()
        self._saved_step = state.step or -1
        if self._learner.workers.rank == 0:
            self._open_logs(state)
        if state.step == 0 and self._config.alarms.action in ("stop", "rollback"):
            self.checkpoint(0)  # an alarm may come before the first one is due
        return state.step

    def _open_logs(self, state: RunState) -> None:
        """Opens the logs, cut back to a checkpoint."""
        others = make_loggers(self._output, self._config, state.step)
        self._metrics = MetricsLog(self._output / "metrics.jsonl", others=others, keep=state.metrics_bytes)
        self._history = read_metrics(self._output / "metrics.jsonl")
        transcripts = self._output / "transcripts.jsonl"
        transcripts.touch()
        os.truncate(transcripts, min(state.transcripts_bytes, transcripts.stat().st_size))

    def record(self, step: int, metrics: Mapping[str, float], groups: Sequence[Sequence[Rollout]]) -> list[Alarm]:
        """Writes what a finished step (1-based) has to say, and a checkpoint when one is due.

        Returns:
            The alarms that have gone on with this step.

        Raises:
            CheckpointError: when something cannot be written; all checkpoints are still there.
        """
        files = self._config.files
        with self._writing():
            alarms = [] if self._metrics is None else self._record(self._metrics, step, metrics, groups)
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
        if files.transcripts_every and (step == 1 or step % files.transcripts_every == 0):
            self._write_transcripts(step, groups, files.transcripts)
        return [alarm for alarm in alarms if alarm.field not in earlier]

    @property
    def alarms(self) -> list[Alarm]:
        """The alarms that are on."""
        return find_alarms(self._config.alarms, self._history)

    def roll_back(self, step: int) -> bool:
        """Gives up everything since the newest checkpoint from before the alarm; `restore` goes on from there.

        Returns:
            False, with nothing changed, when there is no such checkpoint or no rollback is left.
        """
        good = last_good_step(self._config.alarms, step)
        if self._rollbacks >= self._config.alarms.max_rollbacks:
            return False
        for path in reversed(checkpoint_paths(self._output / "checkpoints")):
            try:
                to_step = read_found(path).state.step
            except CheckpointError:
                continue  # damaged: an older one will do
            if to_step <= good:
                undone = [record for record in self._history if record["step"] > to_step]
                alarm = "; ".join(map(str, self.alarms))
                with self._writing():
                    record_rollback(self._output, Rollback(alarm, step, to_step, undone))
                return True
        return False

    def stop_message(self, step: int) -> str:
        """What a run says that an alarm has stopped, with the ways out."""
        alarms, again = self._config.alarms, f"zerosearch train --resume {self._output}"
        said = f"stopped after {step} steps by an alarm: {'; '.join(map(str, self.alarms))}. Everything is saved."
        ignore = f"go on as it is with {again} --alarms.action warn"
        if alarms.action == "stop":
            return f"{said} Go back to before it with {again} --alarms.action rollback, or {ignore}."
        if self._rollbacks >= alarms.max_rollbacks:
            why = f"The run has been rolled back {self._rollbacks} times already (alarms.max_rollbacks)"
        else:
            why = f"No checkpoint of {last_good_step(alarms, step)} steps or fewer is left to go back to"
        return f"{said} {why}: begin anew with a lower optimizer.learning_rate, or {ignore}."

    def checkpoint(self, step: int) -> None:
        """Saves everything needed to go on after `step` finished steps; does nothing when that is saved already."""
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
            save_checkpoint(folder, state, weights, optimizer, keep=keep)
        self._saved_step = step

    def _state_after(self, step: int) -> RunState | None:
        """Where the run stands, its logs synced; None in workers that write none."""
        if self._metrics is None:
            return None
        transcripts = self._output / "transcripts.jsonl"
        with transcripts.open("rb") as stream:
            os.fsync(stream.fileno())
        return RunState(
            step=step,
            metrics_bytes=self._metrics.sync(),
            transcripts_bytes=transcripts.stat().st_size,
            initial_policy=self._state.initial_policy,
            seconds=self.seconds,
            rollbacks=self._rollbacks,
        )

    def _keep(self, step: int) -> int:
        """Checkpoints that stay: as many as configured, and those that a rollback from here on may need."""
        files, alarms = self._config.files, self._config.alarms
        if alarms.action not in ("stop", "rollback"):
            return files.keep_checkpoints
        good = last_good_step(alarms, step)
        steps = {
            step,
            *(int(path.name.removeprefix("step-")) for path in checkpoint_paths(self._output / "checkpoints")),
        }
        return max(files.keep_checkpoints, 1 + sum(one > good for one in steps))

    def _write_transcripts(self, step: int, groups: Sequence[Sequence[Rollout]], count: int) -> None:
        """One member of each group, then the next ones, as far as this process has their episodes."""
        by_member = [rollout for members in zip(*groups, strict=True) for rollout in members]
        episodes = [rollout.episode for rollout in by_member if rollout.episode is not None]
        with TranscriptWriter(self._output / "transcripts.jsonl") as writer:
            for episode in episodes[:count]:
                writer.write(transcript_record(episode, step=step))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what a failed write means for the run."""
        try:
            yield
        except OSError as cause:
            raise CheckpointError(
                f"the run in {self._output} could not be written: {one_line(cause)}. Its checkpoints are "
                f"untouched; make room and go on with: zerosearch train --resume {self._output}"
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
