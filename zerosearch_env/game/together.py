"""Advance many episodes at once, for rewards that wait for a server."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .episode import Episode, Outcome

MAX_WAITING = 64
"""Maximum number of threads that wait for rewards."""


def advance_all(episodes: Sequence[Episode], texts: Sequence[str]) -> list[Outcome]:
    """`Episode.advance` for every episode and its text, with the outcomes in order.

    If a reward or score waits for a server (`Rules.waits`), the episodes take their turns in threads, so that their
    rewards are computed at the same time. Otherwise threads would only cost time.
    """
    if len(episodes) < 2 or not any(episode.rules.waits for episode in episodes):
        return [episode.advance(text) for episode, text in zip(episodes, texts, strict=True)]
    with ThreadPoolExecutor(min(MAX_WAITING, len(episodes)), "zerosearch-reward") as threads:
        return list(threads.map(Episode.advance, episodes, texts))
