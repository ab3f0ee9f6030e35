"""The episodes of an evaluation: questions chosen by a seed, and the seed of each episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.randomness import mix
from zerosearch_env.types import Question


@dataclass(frozen=True, slots=True)
class Item:
    """An episode to play: a question, its position in the dataset that it was chosen from, and the sample's number."""

    index: int
    question: Question
    sample: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the episode within a cell (`EpisodeResult.key`)."""
        return self.index, self.sample

    def seed(self, seed: int) -> int:
        """The seed of the episode in an evaluation with a seed; see `evaluate.py`."""
        return mix(seed, self.index, self.sample) if self.sample else mix(seed, self.index)


def select_questions(
    questions: Sequence[Question], count: int | None, *, seed: int = 0, per_hop: bool = False
) -> list[Item]:
    """Choose questions by a seed; a larger `count` with the same seed gives a superset.

    Args:
        questions: the dataset's questions.
        count: how many to take; None, or more than there are, takes all.
        seed: random seed of the choice.
        per_hop: take `count` for each value of `metadata["hops"]` instead of `count` in total.

    Returns:
        The chosen questions in the dataset's order.

    Raises:
        DataError: there are no questions.
        ConfigError: `count` is not positive.
    """
    if not len(questions):
        raise DataError("the dataset holds no question to evaluate on")
    if count is not None and count < 1:
        raise ConfigError(f"questions: expected at least 1, got {count}")
    order = sorted(range(len(questions)), key=lambda index: mix(seed, index))
    pools: dict[Any, list[int]] = {}
    for index in order:
        hop = (questions[index].metadata or {}).get("hops") if per_hop else None
        pools.setdefault(hop, []).append(index)
    chosen = sorted(index for pool in pools.values() for index in pool[:count])
    return [Item(index, questions[index]) for index in chosen]
