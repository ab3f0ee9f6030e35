"""Stable-Baselines3: the menu environment as a `VecEnv`.

    from zerosearch_env.integrations.sb3 import make_vec_env
    model = MaskablePPO("MlpPolicy", make_vec_env(32, noise_level=0.6))

Needs the extra `sb3`. `PPO("MlpPolicy", "zerosearch_env:ZeroSearchMenu-v0")` works without this module, on one
environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import require
from .menu.envs import MenuVectorEnv

require("stable_baselines3")

from stable_baselines3.common.vec_env import VecEnv, VecMonitor  # noqa: E402

if TYPE_CHECKING:
    from gymnasium import Wrapper

Indices = None | int | Iterable[int]


class MenuVecEnv(VecEnv):
    """`MenuVectorEnv` in the form of Stable-Baselines3, with one search-engine call for all sub-environments.

    Infos are empty except at the end of an episode: then they are those of `MenuEnv`, with `terminal_observation` and
    `TimeLimit.truncated`.

    Args:
        num_envs: number of sub-environments.
        **arguments: the arguments of `MenuEnv`.

    Raises:
        ConfigError: see `MenuEnv`.
        DataError: see `MenuEnv`.
    """

    # Any: `EnvOptions` gives each argument its type
    def __init__(self, num_envs: int, **arguments: Any) -> None:
        self.envs = MenuVectorEnv(num_envs, autoreset_mode="SameStep", **arguments)
        self._actions: NDArray[np.int64] = np.zeros(num_envs, np.int64)
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)

    # Any: Stable-Baselines3 declares it so
    def reset(self) -> Any:
        """Start an episode in every sub-environment; the seeds are those of `seed`, if it was called."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        observations, _ = self.envs.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of the next step."""
        self._actions = actions

    # Any: Stable-Baselines3 declares it so
    def step_wait(self) -> Any:
        """Play one turn in every sub-environment; those whose episode ended begin the next one."""
        observations, rewards, terminations, truncations, infos = self.envs.step(self._actions)
        dones = terminations | truncations
        rows: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(dones):
            final = infos["final_info"]
            keys = [key for key in final if not key.startswith("_") and final[f"_{key}"][index]]
            rows[index] = {key: final[key][index] for key in keys}
            rows[index]["terminal_observation"] = infos["final_obs"][index]
            rows[index]["TimeLimit.truncated"] = bool(truncations[index])
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        """Close the engine if the environment created it."""
        self.envs.close()

    def has_attr(self, attr_name: str) -> bool:
        """Whether `get_attr` or `env_method` know a name."""
        return hasattr(self.envs, attr_name)

    # Any: Stable-Baselines3 declares it so
    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute, which all sub-environments share."""
        return [getattr(self.envs, attr_name)] * len(self._chosen(indices))

    # Any: Stable-Baselines3 declares it so
    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refused: the sub-environments share everything.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(
            f"{attr_name!r} cannot be set for one sub-environment, since all share one setup. For the curriculum use "
            "env_method('set_progress', x)."
        )

    # Any: Stable-Baselines3 declares it so
    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method: `action_masks` of each sub-environment, or one of all, such as `set_progress`, once."""
        chosen = self._chosen(indices)
        if method_name == "action_masks":
            masks = self.envs.action_masks()
            return [masks[index] for index in chosen]
        return [getattr(self.envs, method_name)(*method_args, **method_kwargs)] * len(chosen)

    # Any: Stable-Baselines3 declares it so
    def env_is_wrapped(self, wrapper_class: type[Wrapper[Any, Any, Any, Any]], indices: Indices = None) -> list[bool]:
        """No sub-environment is wrapped."""
        return [False] * len(self._chosen(indices))

    def _chosen(self, indices: Indices) -> Sequence[int]:
        return list(self._get_indices(indices))


# Any: `MenuEnv` gives each argument its type
def make_vec_env(num_envs: int = 1, *, seed: int | None = None, **arguments: Any) -> VecMonitor:
    """Make a `MenuVecEnv` that counts the reward and length of every episode (`VecMonitor`).

    Args:
        num_envs: number of sub-environments.
        seed: sub-environment i gets seed + i; None: an algorithm's own `seed` decides.
        **arguments: the arguments of `MenuEnv`.

    Raises:
        ConfigError: see `MenuEnv`.
        DataError: see `MenuEnv`.
    """
    env = MenuVecEnv(num_envs, **arguments)
    env.seed(seed)
    return VecMonitor(env)
