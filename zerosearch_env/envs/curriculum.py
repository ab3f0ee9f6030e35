"""The progress of the noise curriculum: counted from episodes that have ended, or set by the user."""

from __future__ import annotations

from dataclasses import dataclass

from ..game.episode import Episode
from ..game.noise import check_progress


@dataclass
class Curriculum:
    """Progress of the curriculum: ended episodes / `curriculum_episodes`, unless a fixed value was set.

    An episode ends by its own rules, by a time limit, or by a reset that abandons it after at least one turn: all of
    them are experience. A reset before the first turn counts nothing, and neither does one that starts the same episode
    again (the same seed and options twice in a row): Gymnasium expects the same infos of it.
    """

    curriculum_episodes: int
    ended: int = 0
    """Number of episodes that have ended, summed over all sub-environments."""
    fixed: float | None = None
    """Progress set by the user; None: count episodes."""

    @property
    def value(self) -> float:
        """Progress in [0, 1]."""
        if self.fixed is not None:
            return self.fixed
        part = self.ended / self.curriculum_episodes
        return part if part < 1.0 else 1.0

    def count_abandoned(self, episode: Episode | None) -> None:
        """Count the episode that a reset replaces, unless it was counted at its end or has no turn yet.

        A time limit around the environment (Gymnasium's `TimeLimit`) is only visible here, as the reset that follows.
        """
        if episode is not None and not episode.done and episode.turns:
            self.ended += 1

    def set(self, progress: float | None) -> None:
        """Fix the progress from now on; None returns to counting episodes."""
        self.fixed = None if progress is None else check_progress(progress)
