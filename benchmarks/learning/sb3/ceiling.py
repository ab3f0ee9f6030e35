"""The share of questions whose right answer is on the menu, and what two policies without any training reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.envs.session import Session
from zerosearch_env.game.rewards import exact_match
from zerosearch_env.integrations.menu.menu import FEATURES, Bools, Floats, Menu

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine
    from zerosearch_env.game.rules import Rules
    from zerosearch_env.types import Question

SUPPORTED, ENOUGH = 0.5, 0.4
"""Match with the subject, and score, from which `sensible_action` relies on a candidate."""


@dataclass(frozen=True)
class Ceiling:
    """What `sensible_action` finds without noise."""

    questions: int
    on_menu: float
    """Share of questions for which the right answer is on the menu in the end."""
    em: float
    """Share of questions that it answers right."""
    searches: float
    """Searches per question."""


def sensible_action(menu: Menu) -> int:
    """A policy by hand: follow bridges from the question, and answer as soon as a candidate has support.

    It searches the question, then with bridges that it has not searched with, and otherwise the question again.
    """
    steps = menu.steps
    finals = [i for i, c in enumerate(menu.candidates) if c.hop == steps - 1 and c.subject > SUPPORTED]
    bridges = [i for i, c in enumerate(menu.candidates) if c.hop < steps - 1 and c.subject > SUPPORTED]
    if finals and (menu.candidates[finals[0]].score > ENOUGH or menu.turn >= menu.max_turns):
        return menu.size + 1 + finals[0]
    if menu.turn >= menu.max_turns:
        return 2 * menu.size + 1 if not menu.candidates else menu.size + 1
    new = [i for i in bridges if not menu.searched(i)]
    if new or (bridges and menu.turn % 2):
        return 1 + (new or bridges)[0]
    return 0


def first_candidate(features: Floats, masks: Bools) -> NDArray[np.int64]:
    """Search the question once and answer the first candidate, in the form of `MenuPlayer`'s `choose`."""
    size = (masks.shape[1] - 2) // 2
    begun = features[:, FEATURES.index("turn")] > 0
    return np.where(begun, np.where(masks[:, size + 1], size + 1, 2 * size + 1), 0)


def measure_ceiling(
    questions: Sequence[Question], engine: SearchEngine, rules: Rules, *, candidates: int = 4
) -> dict[str, Ceiling]:
    """Play all questions without noise with `sensible_action`.

    Args:
        questions: the questions; `metadata["hops"]` puts them into groups.
        engine: answers the searches.
        rules: the rules.
        candidates: number of candidates on the menu.

    Returns:
        `"1-hop"`, `"2-hop"`, ... -> what was found.
    """
    played: dict[str, list[tuple[float, float, int]]] = {}
    for seed, question in enumerate(questions):
        session = Session(question, rules, engine, seed=seed)
        menu = Menu(question.text, rules, candidates)
        em = 0.0
        while not session.done:
            kind, content = menu.take(sensible_action(menu))
            if kind == "answer":
                em = session.answer(content).em
            else:
                menu.observe(session.search(content))
        found = any(exact_match(candidate.text, question.answers) for candidate in menu.candidates)
        group = f"{(question.metadata or {}).get('hops', 1)}-hop"
        played.setdefault(group, []).append((float(found), em, session.episode.searches))
    return {
        group: Ceiling(len(rows), *(float(np.mean(column)) for column in zip(*rows, strict=True)))
        for group, rows in sorted(played.items())
    }
