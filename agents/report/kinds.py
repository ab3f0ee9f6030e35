"""The report's figures by kind of noise: a heat map of exact match, and what the answers came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..evaluation.analysis.robustness import Curve, curves, levels_of
from ..evaluation.results import Cell, Evaluation
from ..evaluation.statistics import EMPTY, Interval
from .charts import percent
from .episodes import outcome_of
from .robustness import Role

OUTCOMES = ("right", "misled", "abstained", "wrong", "no answer")
"""The parts of a bar, in order. They exclude each other: a right answer is never misled."""


@dataclass(frozen=True)
class Share:
    """A part of a bar."""

    name: str
    """One of `OUTCOMES`."""
    share: float
    """In [0, 1]."""

    @property
    def css(self) -> str:
        """The class that has its colour."""
        return f"ze-{self.name.replace(' ', '-')}"


def outcome_shares(cell: Cell) -> list[Share]:
    """How the answers of a cell divide into outcomes, without failed episodes; empty if there is none."""
    counts = Counter(outcome_of(result) for result in cell.finished)
    total = sum(counts[name] for name in OUTCOMES)
    return [Share(name, counts[name] / total) for name in OUTCOMES if counts[name]]


class Kinds:
    """The figures of all kinds of noise on one engine, over all questions.

    Args:
        evaluation: results of one engine, with at least one cell.
        roles: the agents to show.
    """

    def __init__(self, evaluation: Evaluation, roles: Sequence[Role]) -> None:
        (engine,) = evaluation.engines
        self.roles = roles
        self.kinds = evaluation.noise_kinds
        self.levels = evaluation.noise_levels
        self._cells = {
            (role.agent, kind): levels_of(evaluation, role.agent, engine, kind) for role in roles for kind in self.kinds
        }
        self._curves = {(c.agent, c.noise_kind): c for c in curves(evaluation)}

    def cell(self, role: Role, kind: str, level: float) -> Cell | None:
        """The cell of an agent; level 0 is that of any kind."""
        return self._cells[role.agent, kind].get(level)

    def em(self, role: Role, kind: str, level: float) -> Interval:
        """Exact match."""
        cell = self.cell(role, kind, level)
        return EMPTY if cell is None else cell.summary().em

    def heat(self, role: Role, kind: str, level: float) -> float:
        """How strong the colour of a heat map's field is, in percent of the strongest."""
        em = self.em(role, kind, level)
        return round(100 * em.mean, 1) if em.n else 0.0

    @cached_property
    def outcomes(self) -> list[str]:
        """Those of `OUTCOMES` that occur."""
        found = {
            share.name for cells in self._cells.values() for cell in cells.values() for share in outcome_shares(cell)
        }
        return [name for name in OUTCOMES if name in found]

    def shares(self, role: Role, kind: str, level: float) -> list[Share]:
        """The parts of a bar."""
        cell = self.cell(role, kind, level)
        return [] if cell is None else outcome_shares(cell)

    def describe(self, role: Role, kind: str, level: float) -> str:
        """The parts of a bar in words."""
        return ", ".join(f"{part.name} {percent(part.share)} %" for part in self.shares(role, kind, level))

    def curve(self, role: Role, kind: str) -> Curve | None:
        """What sums up the curve of an agent; None if it was not measured with the kind of noise."""
        return self._curves.get((role.agent, kind))

    @property
    def has_area(self) -> bool:
        """Whether any curve has all levels of the area."""
        return any(c.area.n for c in self._curves.values())

    @property
    def summed_up(self) -> bool:
        """Whether any curve has a figure that sums it up."""
        return any(c.area.n or c.kept.n or c.abstained.n for c in self._curves.values())
