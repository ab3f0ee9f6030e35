"""The report's sections on differences between agents, and on what agents do with what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..evaluation.analysis.behaviour import FIGURES, Behaviour, behaviour
from ..evaluation.analysis.comparison import Comparison, comparisons
from ..evaluation.results import Evaluation
from ..evaluation.statistics import EMPTY, Interval
from .kinds import Kinds
from .robustness import Role

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PairTable:
    """All comparisons of two agents: one row per kind of noise, one column per level."""

    first: str
    second: str
    kinds: tuple[str, ...]
    fields: dict[tuple[str, float | None], Comparison]
    """By kind of noise and level; None is the area."""

    @property
    def believed(self) -> int:
        """Number of differences with a corrected p-value below 0.05."""
        return sum(is_significant(comparison) for comparison in self.fields.values())


def is_significant(comparison: Comparison) -> bool:
    """Whether the corrected p-value is below 0.05."""
    return comparison.p_holm < _SIGNIFICANT


def p_text(p: float) -> str:
    """A p-value with two digits: `0.031`, `< 0.0001`."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


class Differences:
    """The paired differences in exact match between all agents, over all questions.

    Args:
        evaluation: results of one engine.
        roles: the agents to compare.
    """

    def __init__(self, evaluation: Evaluation, roles: Sequence[Role]) -> None:
        labels = {role.agent: role.label for role in roles}
        listed = comparisons(evaluation, agents=list(labels)) if len(labels) > 1 else []
        self.count = len(listed)
        self.levels: list[float | None] = [*sorted({c.noise_level for c in listed if c.noise_level is not None})]
        if any(c.noise_level is None for c in listed):
            self.levels.append(None)
        pairs: dict[tuple[str, str], dict[tuple[str, float | None], Comparison]] = {}
        for comparison in listed:
            fields = pairs.setdefault((comparison.first, comparison.second), {})
            fields[comparison.noise_kind, comparison.noise_level] = comparison
        self.pairs = [
            PairTable(labels[first], labels[second], tuple(dict.fromkeys(kind for kind, _ in fields)), fields)
            for (first, second), fields in pairs.items()
        ]

    @property
    def believed(self) -> int:
        """Number of differences with a corrected p-value below 0.05."""
        return sum(pair.believed for pair in self.pairs)


class BehaviourSection:
    """What the agents do with what they read, by kind of noise and level."""

    labels = FIGURES

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds

    @cached_property
    def _figures(self) -> dict[tuple[str, str, float], Behaviour]:
        kinds = self.kinds
        found = {}
        for role in kinds.roles:
            for kind in kinds.kinds:
                for level in kinds.levels:
                    if (cell := kinds.cell(role, kind, level)) is not None:
                        found[role.agent, kind, level] = behaviour(cell)
        return found

    @property
    def known(self) -> bool:
        """Whether it is known what searches found: results of earlier versions do not say so."""
        return any(b.right_seen.n or b.searched_again.n for b in self._figures.values())

    def figure(self, name: str, role: Role, kind: str, level: float) -> Interval:
        """One of `labels`."""
        found = self._figures.get((role.agent, kind, level))
        figure: Interval = EMPTY if found is None else getattr(found, name)
        return figure

    def shown(self, name: str, kind: str) -> bool:
        """Whether a figure has a value for any agent and level."""
        return any(self.figure(name, role, kind, level).n for role in self.kinds.roles for level in self.kinds.levels)
