"""Kinds of noise: what a noisy search returns, around any engine."""

from __future__ import annotations

from collections.abc import Sequence

from ...game.noise_kinds import NoiseKinds, NoiseSpec, read_noise_kinds
from ...types import Question
from ..base import SearchEngine

__all__ = ["add_noise_kinds"]


def add_noise_kinds(
    engine: SearchEngine, kinds: NoiseKinds | NoiseSpec | Sequence[NoiseSpec], questions: Sequence[Question]
) -> SearchEngine:
    """Give an engine the kinds of noise that will be requested from it.

    Args:
        engine: the engine.
        kinds: the kinds, a mixture, or a list of these (`read_noise_kinds`).
        questions: the questions of the dataset: wrong answers and irrelevant queries come from them.

    Returns:
        A `KindsEngine` (`engine.py`), which closes the engine when it is closed. The engine itself if `distractor` is
        the only kind, or if it was given these kinds for these questions before.

    Raises:
        ConfigError: a kind is unknown, or the dataset cannot give it; the message names the kind and a way out.
    """
    kinds = read_noise_kinds(kinds)
    if set(kinds.kinds) <= {"distractor"}:
        return engine
    from .engine import KindsEngine  # when it is used: most environments have distractors only

    if isinstance(engine, KindsEngine) and engine.is_made_for(kinds, questions):
        return engine
    return KindsEngine(engine, kinds, questions)
