"""Results of evaluations made by hand: episodes with given scores and searches, and cells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zerosearch_agents.evaluation.episodes import EpisodeResult
from zerosearch_agents.evaluation.results import Cell


def made_episode(index: int, em: float = 0.0, **values: Any) -> EpisodeResult:
    """An episode with this EM for every score; `found` gives the searches, `values` any other field."""
    found = tuple(values.get("found", (0,)))
    defaults: dict[str, Any] = {
        **dict.fromkeys(("f1", "subem", "em_unicode", "f1_unicode"), em),
        "question_id": f"q{index}",
        "group": "",
        "searches": len(found),
        "turns": len(found) + 1,
        "invalid": 0,
        "noisy": 0,
        "draws": len(found),
        "stop_reason": "answer",
        "prediction": "right" if em else "wrong",
        "found": found,
        "noisy_searches": (0,) * len(found),
    }
    return EpisodeResult(index=index, em=em, **{**defaults, **values})


def made_cell(
    scores: Sequence[float] | Mapping[int, float],
    level: float = 0.0,
    kind: str = "distractor",
    agent: str = "a",
    **values: Any,
) -> Cell:
    """A cell with one episode per score: EM by the question's index; `values` go to every episode."""
    by_index = scores if isinstance(scores, Mapping) else dict(enumerate(scores))
    rows = tuple(made_episode(index, em, **values) for index, em in by_index.items())
    return Cell(agent, "corpus", level, len(rows), rows, noise_kind=kind)
