"""verifiers: the environment as a taskset and an environment of verifiers, for `vf-eval`, prime-rl and their like.

    vf-eval zerosearch-verifiers -m MODEL --client.base-url URL -n 20 --env.taskset.noise-level 0.5

This is a module at the top level because verifiers imports a plugin by one name without dots. Needs the extra
`verifiers` of zerosearch-env. docs/frameworks/verifiers.md has examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from zerosearch_env import Session, SessionSource, StopReason
from zerosearch_env.errors import EngineError
from zerosearch_env.integrations.reports import episode_metrics
from zerosearch_env.integrations.versions import require_version
from zerosearch_env.protocols.base import with_stop_string

require_version("verifiers", "0.4", "0.4", 'pip install "zerosearch-env[verifiers]"')

import verifiers.v1 as vf  # noqa: E402
from pydantic import Field  # noqa: E402
from verifiers.v1.harnesses.null import NullHarnessConfig  # noqa: E402

__all__ = ["ZeroSearchEnv", "ZeroSearchTaskset"]


class ZeroSearchConfig(vf.TasksetConfig):
    """Options of the taskset, `--env.taskset.*`."""

    dataset: str = "world"
    """The built-in world ("world"), a file, a folder, or a hub name; several with commas."""
    split: str = "train"
    """Split of the dataset."""
    noise_level: float | None = None
    """Probability in [0, 1] that a search is noisy. None: 0, or the schedule among `arguments`."""
    seed: int = 0
    """Seed of the noise. All rollouts of one task meet the same noise."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of gymnasium.make("ZeroSearch-v0"), as JSON: '{"protocol": "search-r1", "max_turns": 3}'."""

    def source(self) -> SessionSource:
        """What starts the episodes: one object per process and options, with one dataset and engine."""
        arguments = {"dataset": self.dataset, "split": self.split, "noise_level": self.noise_level}
        return SessionSource.shared(**arguments, **self.arguments)


class ZeroSearchData(vf.TaskData):
    """A question with its prompt. It goes to other processes and into traces, and holds no gold answers."""

    row: dict[str, Any]
    """The row of `SessionSource.rows`, without the prompt."""


class ZeroSearchTask(vf.Task[ZeroSearchData, vf.State, vf.TaskConfig]):
    """One question."""


class ZeroSearchTaskset(vf.Taskset[ZeroSearchTask, ZeroSearchConfig]):
    """The questions of a dataset, in its order."""

    def load(self) -> Iterator[ZeroSearchTask]:
        """Yield a task per question.

        Raises:
            ConfigError: an option is invalid.
            DataError: the dataset cannot be read.
        """
        for row in self.config.source().rows(seed=self.config.seed):
            prompt = row.pop("prompt")
            data = ZeroSearchData(id=str(row["question_id"]), name=str(row["question"]), prompt=prompt, row=row)
            yield ZeroSearchTask(data, self.config.task)


class ZeroSearchEnvConfig(vf.EnvConfig):
    """Options of the environment, `--env.*`."""

    player: vf.AgentConfig = vf.AgentConfig(harness=NullHarnessConfig(id="null"), runtime=vf.SubprocessConfig())
    """The policy. It only writes text, so it needs neither tools nor a sandbox."""


class ZeroSearchEnv(vf.Env[ZeroSearchEnvConfig]):
    """Plays the episodes of `ZeroSearch-v0`: the policy's messages are turns, the observations are user messages."""

    def __init__(self, config: ZeroSearchEnvConfig) -> None:
        self._source = config.taskset.source()
        player = config.player
        sampling = {} if player.sampling is None else player.sampling.model_dump(exclude_unset=True)
        sampling.setdefault("stop", list(self._source.stop_strings))
        player = player.model_copy(update={"sampling": vf.SamplingConfig(**sampling)})
        super().__init__(config.model_copy(update={"player": player}))

    async def run(self, task: ZeroSearchTask, agents: vf.Agents) -> None:
        """Play one episode, and record its reward and scores on the trace.

        Raises:
            EngineError: the engine failed, or the reward has no value; verifiers then leaves the episode out.
        """
        session = self._source.start_row(task.data.row)
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                observation = await _play(session, segment.last_reply)
                if observation is None:
                    break
                segment = await interaction.turn(observation)
        if not session.done:  # a limit of verifiers has ended it, or the model failed, which is in the trace already
            session.stop(StopReason.CONTEXT_LIMIT)
        scores = session.scores
        assert scores is not None
        trace = interaction.trace
        trace.record_reward("reward", scores.reward)
        values = {**episode_metrics(session), "subem": scores.subem, "noise_level": session.episode.noise_level}
        values |= {name: value for name, value in scores.extra if value is not None}
        trace.record_metrics({name: value for name, value in values.items() if math.isfinite(value)})


async def _play(session: Session, reply: str) -> str | None:
    """Play a turn; returns the next user message, or None at the end."""
    step = await session.aturn(with_stop_string(reply, session.episode.rules.protocol))
    if step.stop_reason is not None and step.stop_reason.failed:
        raise EngineError(str(step.error))
    return None if step.done else step.observation.strip()
