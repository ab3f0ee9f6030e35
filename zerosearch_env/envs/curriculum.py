"""Where the curriculum is: finished episodes, or a progress set from outside."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..errors import ConfigError


@dataclass
class Progress:
    """Where the curriculum stands: finished episodes over `curriculum_episodes`, unless somebody set it."""

    curriculum_episodes: int
    finished: int = 0
    """Episodes that came to their end, of all sub-environments together."""
    fixed: float | None = None
    """Progress set from outside; None: counted."""

    @property
    def value(self) -> float:
        """Progress in [0, 1]."""
        if self.fixed is not None:
            return self.fixed
        part = self.finished / self.curriculum_episodes
        return part if part < 1.0 else 1.0

    def set(self, progress: float | None) -> None:
        """Fix the progress from now on, or return to counting episodes with None."""
        self.fixed = None if progress is None else check_progress(progress)


def check_progress(progress: Any) -> float:
    """A progress as a float.

    Raises:
        ConfigError: when it is no number in [0, 1].
    """
    if isinstance(progress, bool) or not isinstance(progress, Real) or not 0.0 <= float(progress) <= 1.0:
        raise ConfigError(f"progress must be a number in [0, 1], got {progress!r}.")
    return float(progress)
