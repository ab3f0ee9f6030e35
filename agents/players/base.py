"""The interface of a player, and the options of players that use a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from zerosearch_env.engines.base import SearchEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules

OnDone = Callable[[Episode], None]


@runtime_checkable
class Player(Protocol):
    """Who plays."""

    name: str
    """How the player is called in results."""
    searches: bool
    """False when it never searches: then no noise is drawn and one noise level stands for all."""

    def rules_for(self, rules: Rules) -> Rules:
        """The rules it plays by: the evaluation's, with the protocol it was trained in where it has one."""
        ...

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode to its end.

        Args:
            episodes: fresh episodes of one cell of an evaluation.
            engine: answers the searches.
            on_done: called with each episode as soon as it is over.
        """
        ...


@dataclass(frozen=True)
class PolicyOptions:
    """How a policy is loaded and sampled; plain values, so that worker processes can be told."""

    path: str
    """Directory of the policy."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    slots: int = 64
    """Episodes that are decoded side by side in one process; changes speed and memory, not results."""
    turn_tokens: int | None = None
    """Most tokens sampled in one turn; None: what the policy's card says."""
    device: str = "cpu"
    """Where the model goes: "cpu" or "cuda"."""
    dtype: str = "float32"
    """Type of the weights: "float32", "bfloat16" or "float16"."""
