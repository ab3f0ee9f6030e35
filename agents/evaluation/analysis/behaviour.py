"""What an agent does with what it reads: whether it stops when it should, and recovers from noisy searches.

A search suffices if an answer was in its documents (`EpisodeResult.found`). Each figure is over the episodes that its
question makes sense for, and an episode that does not say what its searches found (an earlier version, a question
without gold answers) is left out.

These are conditional figures: agents and noise levels differ in which episodes meet the condition, so they describe an
agent and do not compare it with another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from ..episodes import EpisodeResult, by_question
from ..results import Cell
from ..statistics import Interval, Kind, mean_interval


@dataclass(frozen=True)
class Behaviour:
    """Figures in [0, 1], each with a 95 % interval over questions; `n` is how many of them meet its condition.

    Of several samples of a question, each figure takes the mean.
    """

    right_seen_last: Interval
    """EM, given that an answer was in the documents of the last search."""
    right_seen: Interval
    """EM, given that an answer was in the documents of any search."""
    right_unseen: Interval
    """EM, given that no search showed an answer, or that there was no search: known by heart, or guessed."""
    answered_at_once: Interval
    """Share that answered right after the first search that sufficed, of the episodes in which one did."""
    searched_on: Interval
    """Share that searched again after a search that sufficed, of the episodes in which one did. What is missing to 1
    had no answer after it: the turns were used up, or the agent declined."""
    answered_unfounded: Interval
    """Share with an answer that is not an abstention, of the episodes in which no search sufficed or there was none."""
    recovered_early: Interval
    """EM, given that the first search was noisy."""
    recovered_middle: Interval
    """EM, given that the second search was noisy."""
    recovered_late: Interval
    """EM, given that the third search or a later one was noisy."""
    searched_again: Interval
    """Share of noisy searches that another search followed, per question."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None."""
        return {entry.name: getattr(self, entry.name).as_dict() for entry in fields(self)}


FIGURES: dict[str, str] = {
    "right_seen_last": "right, answer seen in the last search",
    "right_seen": "right, answer seen in any search",
    "right_unseen": "right, answer never seen",
    "answered_at_once": "answered at the first search that sufficed",
    "searched_on": "searched on although it sufficed",
    "answered_unfounded": "answered although nothing sufficed",
    "recovered_early": "right, 1st search noisy",
    "recovered_middle": "right, 2nd search noisy",
    "recovered_late": "right, 3rd or later search noisy",
    "searched_again": "searched again after a noisy search",
}
"""The label of each figure in tables."""


def behaviour(cell: Cell, group: str | None = None) -> Behaviour:
    """The behaviour of an agent in a cell, over the episodes that no failure ended.

    Args:
        cell: the cell.
        group: `"1-hop"`, ...; None takes all questions.

    Returns:
        The figures; one whose condition no episode meets is `EMPTY`.
    """
    known = [r for r in cell.select(group) if not r.failed and _is_known(r)]
    searched = [r for r in known if r.found]
    seen, unseen = [r for r in searched if any(r.found)], [r for r in known if not any(r.found)]
    binary: Kind = "binary" if cell.samples == 1 else "graded"

    def share(values: Iterable[tuple[EpisodeResult, float]], kind: Kind = binary) -> Interval:
        return mean_interval(list(by_question(values).values()), kind)

    def right(episodes: Iterable[EpisodeResult]) -> Interval:
        return share((r, r.em) for r in episodes)

    return Behaviour(
        right_seen_last=right(r for r in searched if r.found[-1]),
        right_seen=right(seen),
        right_unseen=right(unseen),
        answered_at_once=share((r, float(r.found.index(1) + 1 == len(r.found) and _answered(r))) for r in seen),
        searched_on=share((r, float(r.found.index(1) + 1 < len(r.found))) for r in seen),
        answered_unfounded=share((r, float(_answered(r))) for r in unseen),
        recovered_early=right(r for r in known if any(r.noisy_searches[:1])),
        recovered_middle=right(r for r in known if any(r.noisy_searches[1:2])),
        recovered_late=right(r for r in known if any(r.noisy_searches[2:])),
        searched_again=share(_repeats(known), "graded"),
    )


def _is_known(result: EpisodeResult) -> bool:
    """Whether the episode says for each of its searches whether it showed an answer."""
    return -1 not in result.found and bool(result.found) == bool(result.searches)


def _answered(result: EpisodeResult) -> bool:
    """Whether there is an answer that is not an abstention."""
    return bool(result.prediction) and not result.abstained


def _repeats(results: Iterable[EpisodeResult]) -> Iterator[tuple[EpisodeResult, float]]:
    """The share of noisy searches that another search followed, of each episode that has any."""
    for result in results:
        noisy = [place for place, flag in enumerate(result.noisy_searches, 1) if flag]
        if noisy:
            yield result, sum(place < len(result.noisy_searches) for place in noisy) / len(noisy)
