"""What adapters report of an episode besides its reward: numbers that a trainer averages."""

from __future__ import annotations

from ..envs.session import Session
from ..errors import EpisodeError
from ..types import StopReason

_SCORES = ("em", "f1", "searches", "misled", "abstained")


def episode_metrics(session: Session) -> dict[str, float]:
    """Scores and counts of a finished episode, always with the same names.

    Returns:
        `em`, `f1`, `searches`, `misled`, `abstained`, `noisy_searches`, and `answered` (1.0 or 0.0).

    Raises:
        EpisodeError: the episode is not over.
    """
    scores = session.scores
    if scores is None:
        raise EpisodeError("an episode has metrics when it is over: play it to its end, or call session.stop(reason).")
    flags = [flag for turn in session.episode.turns for flag in turn.step.noise_flags]
    return {
        **{name: float(getattr(scores, name)) for name in _SCORES},
        "noisy_searches": float(sum(flag if isinstance(flag, bool) else any(flag) for flag in flags)),
        "answered": float(session.episode.stop_reason is StopReason.ANSWER),
    }
