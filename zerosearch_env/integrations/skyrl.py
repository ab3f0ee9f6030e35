"""SkyRL: the environment as a `BaseTextEnv` of SkyRL-gym, and the rows of its data files.

    from zerosearch_env.integrations.skyrl import make_rows, register
    register("zerosearch", noise_level=0.5)                       # in the process that plays the episodes
    rows = make_rows("zerosearch", noise_level=0.5, count=1000)   # for a parquet or JSON file

A row names its question, noise level and seed, so every rollout of a group meets the same noise. SkyRL's
`generator.max_turns` counts all turns: our `max_turns`, which may search, and one more that answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checks import check_whole_number
from ..envs.infos import no_draw, plain, step_info
from ..envs.session import Session, finished_notice
from ..envs.sessions import SessionSource
from ..errors import ConfigError, EngineError, EpisodeError
from ..types import Json, StopReason
from .reports import episode_metrics
from .versions import require_version

require_version("skyrl-gym", "0.4", "0.4", 'pip install "zerosearch-env[skyrl]"')

import skyrl_gym  # noqa: E402
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput  # noqa: E402

ENTRY_POINT = f"{__name__}:ZeroSearchTextEnv"


class ZeroSearchTextEnv(BaseTextEnv):
    """One episode. Environments of a process with equal options share one dataset and one engine.

    Args:
        env_config: options of `gym.make("ZeroSearch-v0")` in SkyRL's configuration; they replace those of `register`.
        extras: the row (`make_rows`), and `max_turns` from `generator.max_turns`.
        **env_options: options of `gym.make("ZeroSearch-v0")`, given to `register`.

    Raises:
        ConfigError: an option is invalid, or `generator.max_turns` does not fit the option `max_turns`.
        DataError: the dataset cannot be read.
    """

    # Any: `EnvOptions` gives each argument its type
    def __init__(
        self, env_config: Mapping[str, Any] | None = None, extras: Mapping[str, Any] | None = None, **env_options: Any
    ) -> None:
        super().__init__()
        options = {**env_options, **(env_config or {})}
        self._row = dict(extras or {})
        if (turns := self._row.get("max_turns")) is not None:
            options["max_turns"] = _searching_turns(turns, options.get("max_turns"))
        self.source = SessionSource.shared(**options)
        self.max_turns = self.source.rules.max_turns + 1
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The episode being played.

        Raises:
            EpisodeError: `init` was not called, or the environment was closed.
        """
        if self._session is None:
            raise EpisodeError("no episode has been started: call init(prompt) first.")
        return self._session

    def init(self, prompt: list[dict[str, str]]) -> tuple[list[dict[str, str]], dict[str, Json]]:
        """Start the episode of the row. Returns its prompt unchanged, and `question`, `question_id`, `noise_level`.

        Raises:
            ConfigError: the row does not name an episode of this environment.
        """
        self._session = self.source.start_row(self._row)
        self.turns = 0
        question = self._session.episode.question
        level = self._session.episode.noise_level
        return prompt, {"question": question.text, "question_id": question.id, "noise_level": level}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Play one turn. SkyRL's sampler should stop at `source.stop_strings` and keep them.

        Returns:
            The observation as messages (none at the end), the reward, whether the episode is over, and as `metadata`
            the environment's info as JSON values. After the end: a message that says so.

        Raises:
            EngineError: the search engine failed. SkyRL cannot leave an episode out, and would learn from a reward 0.
        """
        if self.session.done:
            reason = self.session.episode.stop_reason
            assert reason is not None
            return _output([("user", finished_notice(reason))], 0.0, True, {})
        step = self.session.turn(action)
        self.turns += 1
        if step.stop_reason is StopReason.ENGINE_ERROR:
            raise EngineError(str(step.error))
        messages = step.messages or ((("user", step.observation),) if step.observation else ())
        info = plain(step_info(step, no_draw(self.source.rules)))
        return _output(messages, step.reward, self.session.done, info)

    def get_metrics(self) -> dict[str, float]:
        """Scores and counts, which SkyRL averages. An episode without an end stops here: the tokens ran out."""
        if not self.session.done:
            self.session.stop(StopReason.CONTEXT_LIMIT)
        return episode_metrics(self.session)

    def close(self) -> None:
        """Forget the episode. Dataset and engine stay for the next one."""
        self._session = None


# Any: `EnvOptions` gives each argument its type
def register(name: str = "zerosearch", **env_options: Any) -> None:
    """Register the environment in this process, and load what the options describe. Repeating it does nothing.

    Args:
        name: the `env_class` of the rows.
        **env_options: options of `gym.make("ZeroSearch-v0")` with JSON values.

    Raises:
        ConfigError: an option is invalid, or the name is taken.
        DataError: the dataset cannot be read.
    """
    known = skyrl_gym.envs.registration.registry.get(name)
    if known is None:
        SessionSource.shared(**env_options)
        skyrl_gym.register(id=name, entry_point=ENTRY_POINT, kwargs=env_options)
    elif (known.entry_point, known.kwargs) != (ENTRY_POINT, env_options):
        raise ConfigError(
            f"SkyRL-gym already has an environment {name!r}, made with {known.kwargs!r}: choose another name."
        )


# Any: likewise
def make_rows(
    name: str = "zerosearch", *, seed: int = 0, count: int | None = None, **env_options: Any
) -> list[dict[str, Json]]:
    """Rows in SkyRL's format: those of `SessionSource.rows` with `env_class` and `reward_spec` (the gold answers).

    Args:
        name: the name given to `register`.
        seed: random seed of the noise.
        count: number of rows, the first questions of the dataset; None: all.
        **env_options: the options given to `register`.

    Raises:
        ConfigError: an option is invalid.
        DataError: the dataset cannot be read.
    """
    rows = SessionSource.shared(**env_options).rows(seed=seed, count=count, answers=True)
    return [{**row, "env_class": name} for row in rows]


def _searching_turns(turns: object, option: int | None) -> int:
    """Our `max_turns` for SkyRL's."""
    total = check_whole_number("generator.max_turns", turns)
    if total == 1 or option not in (None, total - 1):
        raise ConfigError(
            f"generator.max_turns counts every turn, also the one that answers: expected "
            f"{6 if option is None else option + 1} for {5 if option is None else option} searches, got {total}."
        )
    return total - 1


# Any: SkyRL declares it so
def _output(messages: Any, reward: float, done: bool, metadata: dict[str, Json]) -> BaseTextEnvStepOutput:
    observations = [{"role": role, "content": content} for role, content in messages]
    return BaseTextEnvStepOutput(
        observations=observations, reward=reward, done=done, metadata=metadata, postprocessed_action=None
    )
