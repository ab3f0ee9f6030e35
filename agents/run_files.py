"""The run directory: `config.toml`, `metrics.jsonl`, `transcripts.jsonl`, `checkpoints/`, `policy/`, `tensorboard/`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from zerosearch_env.errors import CheckpointError, ConfigError
from zerosearch_env.transcripts import TranscriptWriter, transcript_record

from .checkpoint import RunState, fingerprint, load_latest, save_checkpoint
from .config import TrainConfig, config_differences, dump_config, read_config
from .critic import split_weights, with_critic
from .learner import Learner
from .metrics import MetricsLog
from .rollout import Rollout

RUN_FILES = ("config.toml", "metrics.jsonl", "transcripts.jsonl", "checkpoints", "policy", "tensorboard", "sync")
"""What a run writes into its directory."""

_START = RunState(step=0, metrics_bytes=0, transcripts_bytes=0, initial_policy="", seconds=0.0)


def prepare_output(output: Path, config: TrainConfig, *, resume: bool, force: bool, overwrite: bool) -> None:
    """Makes the run directory ready and saves the configuration in it; an existing run stays unless told otherwise.

    Raises:
        ConfigError: when a new run is to begin where one is already.
        CheckpointError: when there is no run to resume, or it had another configuration and `force` is not set.
    """
    saved = output / "config.toml"
    if resume:
        if not saved.is_file():
            raise CheckpointError(f"there is no run to resume in {output}: it has no config.toml.")
        differences = config_differences(read_config(saved), config)
        if differences and not force:
            raise CheckpointError(
                f"the run in {output} had another configuration: {'; '.join(differences)}. "
                "Resume without these options, or force it."
            )
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
    """The parameters by name, shared ones once."""
    return {name: parameter.data for name, parameter in learner.policy.model.named_parameters()}


def restore_learner(learner: Learner, output: Path) -> RunState:
    """Puts the newest valid checkpoint into a learner; a run without any is at its start.

    A critic that the saved run did not have (a resume that was forced to another algorithm) begins anew.

    Raises:
        CheckpointError: when no checkpoint is valid, it does not fit the model, or the KL's reference has changed.
    """
    weights = learner_weights(learner)
    initial = fingerprint(weights) if learner.reference is not None else ""
    found = load_latest(output / "checkpoints")
    if found is None:
        return replace(_START, initial_policy=initial)
    path, state, everything, optimizer = found
    saved, saved_critic = split_weights(everything)
    if {k: v.shape for k, v in saved.items()} != {k: v.shape for k, v in weights.items()}:
        raise CheckpointError(f"{path} belongs to another model than {learner.config.policy!r}.")
    critic = learner.critic if saved_critic else None
    if critic is not None and {k: v.shape for k, v in saved_critic.items()} != {
        k: v.shape for k, v in critic.weights().items()
    }:
        raise CheckpointError(
            f'{path} holds a critic of another shape than critic.trunk = "{learner.config.critic.trunk}".'
        )
    if state.initial_policy and initial and state.initial_policy != initial:
        raise CheckpointError(
            f"{learner.config.policy!r} is not the policy that the run in {output} began with, so its KL would be "
            "measured against another reference."
        )
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(saved[name])
        for name, value in critic.weights().items() if critic is not None else ():
            value.copy_(saved_critic[name])
    critic_state = optimizer.pop("critic", None)
    learner.optimizer.load_state_dict(optimizer)
    if critic is not None:
        critic.optimizer.load_state_dict(critic_state)
    learner.sampler.refresh(state.step)
    return state


class RunFiles:
    """What worker 0 writes while a run goes on. A context manager.

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
        state = restore_learner(self._learner, self._output)
        self._state = state
        self._saved_step = state.step or -1
        tensorboard = self._output / "tensorboard" if self._learner.config.files.tensorboard else None
        self._metrics = MetricsLog(
            self._output / "metrics.jsonl", tensorboard=tensorboard, keep=state.metrics_bytes, step=state.step
        )
        transcripts = self._output / "transcripts.jsonl"
        transcripts.touch()
        os.truncate(transcripts, min(state.transcripts_bytes, transcripts.stat().st_size))
        return state.step

    def record(self, step: int, metrics: Mapping[str, float], groups: Sequence[Sequence[Rollout]]) -> None:
        """Writes what a finished step (1-based) has to say, and a checkpoint when one is due."""
        assert self._metrics is not None
        files = self._learner.config.files
        self._metrics.write(step, metrics)
        if files.transcripts_every and (step == 1 or step % files.transcripts_every == 0):
            self._write_transcripts(step, groups, files.transcripts)
        if files.checkpoint_every and step % files.checkpoint_every == 0:
            self.checkpoint(step)

    def checkpoint(self, step: int) -> None:
        """Saves everything needed to go on after `step` finished steps; does nothing when that is saved already."""
        assert self._metrics is not None
        if step == self._saved_step:
            return
        transcripts = self._output / "transcripts.jsonl"
        with transcripts.open("rb") as stream:
            os.fsync(stream.fileno())
        state = RunState(
            step=step,
            metrics_bytes=self._metrics.sync(),
            transcripts_bytes=transcripts.stat().st_size,
            initial_policy=self._state.initial_policy,
            seconds=self.seconds,
        )
        critic, optimizer = self._learner.critic, self._learner.optimizer.state_dict()
        weights = with_critic(learner_weights(self._learner), critic)
        if critic is not None:
            optimizer |= {"critic": critic.optimizer.state_dict()}
        keep = self._learner.config.files.keep_checkpoints
        save_checkpoint(self._output / "checkpoints", state, weights, optimizer, keep=keep)
        self._saved_step = step

    def _write_transcripts(self, step: int, groups: Sequence[Sequence[Rollout]], count: int) -> None:
        """One member of each group, then the next ones, as far as this process has their episodes."""
        by_member = [rollout for members in zip(*groups, strict=True) for rollout in members]
        episodes = [rollout.episode for rollout in by_member if rollout.episode is not None]
        with TranscriptWriter(self._output / "transcripts.jsonl") as writer:
            for episode in episodes[:count]:
                writer.write(transcript_record(episode, step=step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._metrics is not None:
            self._metrics.close()
