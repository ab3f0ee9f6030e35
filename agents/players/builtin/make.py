"""Every built-in player by name, and the function that makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zerosearch_env.errors import unknown_name

from ..base import Player, PolicyOptions
from ..policy import PolicyPlayer
from .own_format import DirectPlayer, OwnQueryRagPlayer, RagPlayer
from .scripted import OraclePlayer, RandomPlayer

if TYPE_CHECKING:
    from ...processes.pool import WorkerPool

BUILT_ON_POLICY: dict[str, type[PolicyPlayer]] = {
    "direct": DirectPlayer,
    "rag": RagPlayer,
    "rag-own": OwnQueryRagPlayer,
}
"""The baselines that sample from a policy in its own format, by name."""

BASELINES = (*BUILT_ON_POLICY, "random", "oracle")
"""The name of every baseline."""


def make_builtin(
    name: str, *, label: str, policy: PolicyOptions, pool: WorkerPool | None = None, seed: int = 0
) -> Player:
    """Makes a built-in player.

    Args:
        name: one of `BASELINES`.
        label: its name in results.
        policy: the model that it uses, if it uses one.
        pool: worker processes for players that use a policy.
        seed: seed of the random baseline.

    Raises:
        ConfigError: there is no such player; the message suggests the nearest name.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    if name == "random":
        return RandomPlayer(seed=seed, name=label)
    if name == "oracle":
        return OraclePlayer(name=label)
    return BUILT_ON_POLICY[name](policy, name=label, pool=pool)
