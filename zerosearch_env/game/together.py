"""Advance many episodes at once, for rewards that wait for a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .episode import Episode, Outcome

MAX_WAITING = 64
"""Maximum number of threads that wait for rewards."""


TurnType = TypeVar("TurnType")


def advance(episode: Episode, text: str) -> Outcome:
    """`Episode.advance`."""
    return episode.advance(text)


def advance_all(
    episodes: Sequence[Episode],
    turns: Sequence[TurnType],
    take: Callable[[Episode, TurnType], Outcome],
) -> list[Outcome]:
    """Take a turn in every episode.

    If a reward or score waits for a server (`Rules.waits`), the episodes take their turns in threads, so that their
    rewards are computed at the same time. Otherwise threads would only cost time.

    Args:
        episodes: the episodes.
        turns: the turn of each.
        take: takes one turn of an episode: `advance` if turns are texts.

    Returns:
        The outcomes, in order.
    """
    if len(episodes) < 2 or not any(episode.rules.waits for episode in episodes):
        return [take(episode, turn) for episode, turn in zip(episodes, turns, strict=True)]
    with ThreadPoolExecutor(min(MAX_WAITING, len(episodes)), "zerosearch-reward") as threads:
        return list(threads.map(take, episodes, turns))
