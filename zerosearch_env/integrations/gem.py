"""GEM: the environment as a `gem.Env`, with `spawn` and with the seeds of `gem.make_vec`.

    import gem
    from zerosearch_env.integrations.gem import register
    register("zerosearch:ZeroSearch-v0", noise_level=0.5)
    envs = gem.make_vec(["zerosearch:ZeroSearch-v0"] * 8, seed=1, async_mode=True)

Environments with equal options share one dataset and one engine within a process.
"""

from __future__ import annotations

import copy
from typing import Any

from ..envs.session import finished_notice
from ..envs.sessions import SessionSource
from ..envs.single import ZeroSearchEnv
from ..errors import ConfigError
from .versions import require_version

require_version("gem-llm", "0.1", "0.1", 'pip install "zerosearch-env[gem]" (Python 3.12.0 or older)')

import gem  # noqa: E402
from gem.envs.registration import ENV_REGISTRY  # noqa: E402

ENTRY_POINT = f"{__name__}:ZeroSearchGemEnv"


class ZeroSearchGemEnv(gem.Env):
    """`ZeroSearch-v0`, with the same episodes for the same seeds.

    Args:
        seed: used by the first `reset` that is given none; `gem.make_vec` passes one to every environment. None:
            random.
        **env_options: options of `gym.make("ZeroSearch-v0")`.

    Raises:
        ConfigError: an option is invalid.
        DataError: the dataset cannot be read.
    """

    # Any: `EnvOptions` gives each argument its type
    def __init__(self, seed: int | None = None, **env_options: Any) -> None:
        super().__init__()
        self._options = env_options
        source = SessionSource.shared(**env_options)
        shared = {"dataset": source.dataset, "search_engine": source.engine, "on_engine_error": "raise"}
        own = {key: value for key, value in env_options.items() if key not in _DATA_OPTIONS}
        self._env = ZeroSearchEnv(**{**own, **shared})
        self._seed = seed
        self._last: dict[str, Any] | None = None

    # Any: infos have values of many types
    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Start the episode that `gym.make("ZeroSearch-v0", ...).reset(seed=seed)` starts.

        Returns:
            The prompt and the info. After an episode that ended, `info["final_info"]` is its last info: GEM's vectors
            reset an environment within its last step, and drop that.
        """
        observation, info = self._env.reset(seed=self._seed if seed is None else seed)
        self._seed = None
        info, self._last = (info if self._last is None else {**info, "final_info": self._last}), None
        return observation, info

    # Any: likewise
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn.

        Returns:
            Observation, reward, terminated, truncated and info. After the end: a message that says so, and reward 0.

        Raises:
            EngineError: the search engine failed. GEM cannot leave an episode out, and would learn from a reward 0.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._last is not None:
            reason = self._last["stop_reason"]
            return finished_notice(reason), 0.0, reason.terminates, not reason.terminates, dict(self._last)
        observation, reward, terminated, truncated, info = self._env.step(action)
        if terminated or truncated:
            self._last = dict(info)
        return observation, reward, terminated, truncated, info

    def sample_random_action(self) -> str:
        """A well-formed random action: a search or an answer."""
        return self._env.action_space.sample()

    # Any: `EnvOptions` gives each argument its type
    def spawn(self, same_state: bool = False, **kwargs: Any) -> ZeroSearchGemEnv:
        """Make another environment.

        Args:
            same_state: the new environment continues the current episode, and its own random numbers, as this one
                would.
            **kwargs: without `same_state`, options that differ, and `seed`.

        Raises:
            ConfigError: options together with `same_state`, or an invalid option.
        """
        if not same_state:
            return type(self)(**{**self._options, **kwargs})
        if kwargs:
            raise ConfigError(
                f"same_state=True continues the episode with the same options: leave out {sorted(kwargs)}."
            )
        twin = copy.copy(self)
        twin._env = copy.deepcopy(self._env)
        return twin


_DATA_OPTIONS = ("dataset", "split", "on_bad_row", "columns", "world", "search_engine")
"""Options that describe what environments share."""


# Any: likewise
def register(env_id: str = "zerosearch:ZeroSearch-v0", **env_options: Any) -> None:
    """Register the environment with GEM in this process, and load what the options describe. Repeating it does nothing.

    Args:
        env_id: the id for `gem.make` and `gem.make_vec`.
        **env_options: options of `gym.make("ZeroSearch-v0")`.

    Raises:
        ConfigError: an option is invalid, or the id is taken.
        DataError: the dataset cannot be read.
    """
    known = ENV_REGISTRY.get(env_id)
    if known is None:
        SessionSource.shared(**env_options)
        gem.register(env_id, ENTRY_POINT, **env_options)
    elif (known.entry_point, known.kwargs) != (ENTRY_POINT, env_options):
        raise ConfigError(f"GEM already has an environment {env_id!r}, made with {known.kwargs!r}: choose another id.")
