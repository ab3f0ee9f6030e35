"""Wrappers that return the whole transcript as observation, or record transcripts; for single and vector environments.

They read the current episode of the `ZeroSearchEnv` (or `ZeroSearchVectorEnv`) that they wrap. With Gymnasium's
`SyncVectorEnv` or `AsyncVectorEnv`, wrap each sub-environment in a single wrapper; recorders may share one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper

from ..checks import check_options
from ..errors import ConfigError
from ..game.episode import Episode
from ..records.transcripts import TranscriptWriter, transcript_record
from ..types import Info, Options
from .single import ZeroSearchEnv
from .vector import ZeroSearchVectorEnv

_Step = tuple[Any, Any, bool, bool, dict[str, Any]]
_VectorStep = tuple[Any, Any, Any, Any, dict[str, Any]]


def _single(env: gymnasium.Env[Any, Any]) -> ZeroSearchEnv:
    if not isinstance(env.unwrapped, ZeroSearchEnv):
        raise ConfigError(f"expected a ZeroSearchEnv inside, got {type(env.unwrapped).__name__}.")
    return env.unwrapped


def _vector(env: VectorEnv[Any, Any, Any]) -> ZeroSearchVectorEnv:
    if not isinstance(env.unwrapped, ZeroSearchVectorEnv):
        raise ConfigError(
            f"expected a ZeroSearchVectorEnv inside, got {type(env.unwrapped).__name__}. For SyncVectorEnv or "
            "AsyncVectorEnv, wrap each sub-environment in the wrapper for single environments."
        )
    return env.unwrapped


class TranscriptObservation(gymnasium.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Return the whole transcript as observation: the prompt, every turn of the policy and every reply.

    For policies without memory, for example a language model that receives the full prompt each turn.

    Args:
        env: an environment that is or wraps a `ZeroSearchEnv`.
    """

    def __init__(self, env: gymnasium.Env[str, str]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._base = _single(env)

    # Any: Gymnasium declares it so
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start an episode; its transcript is the prompt."""
        _, info = self.env.reset(seed=seed, options=options)
        return self._base.episode.text, info

    def step(self, action: str) -> _Step:
        """Play one turn. At the end of an episode, the transcript ends with the policy's last text."""
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._base.episode.text, reward, terminated, truncated, info


class TranscriptRecorder(gymnasium.Wrapper[str, str, str, str], RecordConstructorArgs):
    """Append every finished episode to a JSONL file, one record per line (see `zerosearch_env.records.transcripts`).

    Args:
        env: an environment that is or wraps a `ZeroSearchEnv`.
        path: the file. Several recorders, also in several processes, may share it.
        extra: JSON values stored under `extra` in every record.
    """

    def __init__(self, env: gymnasium.Env[str, str], path: str | Path, extra: Options | None = None) -> None:
        self._extra = _check_extra(extra)
        RecordConstructorArgs.__init__(self, path=str(path), extra=None if extra is None else self._extra)
        super().__init__(env)
        self._base = _single(env)
        self._writer = TranscriptWriter(path)

    def step(self, action: str) -> _Step:
        """Play one turn, and record the episode if it has ended."""
        result = self.env.step(action)
        if result[2] or result[3]:
            self._writer.write(transcript_record(self._base.episode, **self._extra))
        return result

    def close(self) -> None:
        """Close the environment and the file."""
        super().close()
        self._writer.close()


class VectorTranscriptObservation(VectorWrapper[Any, Any, Any, Any, Any]):
    """`TranscriptObservation` for `ZeroSearchVectorEnv`. `final_obs` contains whole transcripts too.

    Args:
        env: an environment that is or wraps a `ZeroSearchVectorEnv`.
    """

    # Any: wrappers of other types may lie between
    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._base = _vector(env)

    # Any: Gymnasium declares it so
    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[tuple[str, ...], Info]:
        """Start episodes. The transcript of a new episode is its prompt."""
        _, infos = self.env.reset(seed=seed, options=options)
        return self._transcripts(), infos

    def step(self, actions: Sequence[str]) -> _VectorStep:
        """Play one turn in every sub-environment."""
        _, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" in infos:
            final = np.full(self.num_envs, None, dtype=object)
            for index, episode in self._base.finished:
                final[index] = episode.text
            infos["final_obs"] = final
        return self._transcripts(), rewards, terminations, truncations, infos

    def _transcripts(self) -> tuple[str, ...]:
        return tuple(episode.text for episode in self._base.episodes)


class VectorTranscriptRecorder(VectorWrapper[Any, Any, Any, Any, Any]):
    """`TranscriptRecorder` for `ZeroSearchVectorEnv`, in all three autoreset modes.

    Args:
        env: an environment that is or wraps a `ZeroSearchVectorEnv`.
        path: the file.
        extra: JSON values stored under `extra` in every record, in addition to `env`, the index of the sub-environment.
    """

    # Any: wrappers of other types may lie between
    def __init__(self, env: VectorEnv[Any, Any, Any], path: str | Path, extra: Options | None = None) -> None:
        self._extra = _check_extra(extra)
        super().__init__(env)
        self._base = _vector(env)
        self._writer = TranscriptWriter(path)

    def step(self, actions: Sequence[str]) -> _VectorStep:
        """Play one turn in every sub-environment, and record the episodes that have ended."""
        result = self.env.step(actions)
        finished: list[tuple[int, Episode]] = self._base.finished
        for index, episode in finished:
            self._writer.write(transcript_record(episode, **{"env": index, **self._extra}))
        return result

    # Any: Gymnasium declares it so
    def close(self, **kwargs: Any) -> None:
        """Close the environment and the file."""
        super().close(**kwargs)
        self._writer.close()


def _check_extra(extra: Options | None) -> dict[str, Any]:
    return check_options("extra", extra or {}, '{"agent": "mine"}')
