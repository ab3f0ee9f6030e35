"""The progress of the noise curriculum: counted from finished episodes, or set by the user."""

from __future__ import annotations

from dataclasses import dataclass

from ..game.noise import check_progress


@dataclass
class Curriculum:
    """Progress of the curriculum: finished episodes / `curriculum_episodes`, unless a fixed value was set."""

    curriculum_episodes: int
    finished: int = 0
    """Number of finished episodes, summed over all sub-environments."""
    fixed: float | None = None
    """Progress set by the user; None: count finished episodes."""

    @property
    def value(self) -> float:
        """Progress in [0, 1]."""
        if self.fixed is not None:
            return self.fixed
        part = self.finished / self.curriculum_episodes
        return part if part < 1.0 else 1.0

    def set(self, progress: float | None) -> None:
        """Fix the progress from now on; None returns to counting finished episodes."""
        self.fixed = None if progress is None else check_progress(progress)
