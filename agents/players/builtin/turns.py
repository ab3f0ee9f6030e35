"""One turn of many episodes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from zerosearch_env.engines.run import observe_searches
from zerosearch_env.game.episode import Episode, Outcome
from zerosearch_env.game.together import advance_all
from zerosearch_env.types import Step

from ..base import OnDone

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

NO_ANSWER = "unknown"
"""The answer of a player whose model gave none, since an empty answer is an invalid action."""


TurnType = TypeVar("TurnType")


def take_turns(
    episodes: Sequence[Episode],
    turns: Mapping[int, TurnType],
    engine: SearchEngine,
    on_done: OnDone | None,
    *,
    take: Callable[[Episode, TurnType], Outcome],
) -> dict[int, Step]:
    """Takes one turn in some of the episodes, with one engine call for all searches.

    Args:
        episodes: all episodes.
        turns: position of each episode that takes a turn, and the turn.
        engine: answers the searches.
        on_done: called with the position of each episode that is over now.
        take: takes the turn of an episode, `advance` if turns are texts.

    Returns:
        The position of each episode that is not over, and its step, in the order of the positions.
    """
    advanced = advance_all([episodes[i] for i in turns], list(turns.values()), take)
    outcomes = dict(zip(turns, advanced, strict=True))
    steps = {i: outcome for i, outcome in outcomes.items() if isinstance(outcome, Step)}
    searching = [i for i in outcomes if i not in steps]
    steps |= zip(searching, observe_searches(engine, [episodes[i] for i in searching]), strict=True)
    for i, step in steps.items():
        if step.done and on_done:
            on_done(i)
    return {i: steps[i] for i in sorted(steps) if not steps[i].done}
