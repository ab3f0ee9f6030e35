"""The report's section on robustness: EM and searches over the noise level, and a table of all figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zerosearch_env.game.noise_kinds import DISTRACTOR

from ..evaluation.results import Cell, Evaluation
from ..evaluation.statistics import EMPTY, Interval
from ..evaluation.summaries import Summary
from .charts import SMALL, Axis, Chart, Point, Series, fitted_axis, percent, share_axis


@dataclass(frozen=True, slots=True)
class Role:
    """How an agent of the evaluation appears in the report."""

    agent: str
    """Its name in the results."""
    label: str
    key: str
    """Colour and marker, see `charts.STYLES`."""
    dashed: bool = False
    searches: bool = True
    """Whether it decides how often to search; if so, the chart of searches shows it."""


ROLES: dict[str, Role] = {
    role.agent: role
    for role in (
        Role("before", "before training", "before"),
        Role("after", "after training", "after"),
        Role("rag", "one-search RAG, same model", "rag", searches=False),
        Role("rag-own", "one search with its own query, same model", "rag-own", searches=False),
        Role("direct", "direct answer, same model", "direct", searches=False),
        Role("random", "random actions", "random", searches=False),
        Role("oracle", "perfect reader that searches again (sees the answer)", "oracle", dashed=True),
    )
}
"""Agents that the report knows by name; a prefix `baseline:` is ignored."""


def roles_of(evaluation: Evaluation) -> list[Role]:
    """One role per agent: its entry in `ROLES`, or one of four spare colours."""
    roles, spare = [], 0
    for agent in evaluation.agents:
        role = ROLES.get(agent.removeprefix("baseline:"))
        if role is None:
            spare += 1
            role = Role(agent, agent, f"other{(spare - 1) % 4 + 1}", dashed=spare > 4)
        roles.append(replace(role, agent=agent))
    return roles


class Robustness:
    """The section's figures on one engine.

    Charts and the first table show the kind of noise that is measured as a rule, distractors, or else the first kind.

    Args:
        evaluation: results of one engine, with at least one cell.
        roles: its agents.
    """

    def __init__(self, evaluation: Evaluation, roles: Sequence[Role]) -> None:
        (self.engine,) = evaluation.engines
        self.levels = evaluation.noise_levels
        self.kinds = kinds = evaluation.noise_kinds
        self.kind = str(DISTRACTOR) if str(DISTRACTOR) in kinds else kinds[0]
        self.usual = self.kind == str(DISTRACTOR)
        """Whether the charts show distractors."""
        self.other_kinds = [kind for kind in kinds if kind != self.kind]
        self.noisy_levels = [level for level in self.levels if level > 0]
        """The levels at which kinds of noise differ."""
        self.outcomes = evaluation.outcomes
        self.groups: tuple[str | None, ...] = evaluation.groups or (None,)
        self.data_sources = evaluation.data_sources
        self.relations = evaluation.relations
        self.scores = evaluation.additional_scores
        self.samples = evaluation.samples
        """Episodes per question; every figure is the mean over them."""
        named = (cell.summary().samples for cell in evaluation.cells)
        figures = (name for scores in named if scores is not None for name in scores.named())
        self.sample_figures = [name for name in dict.fromkeys(figures) if not name.startswith("mean@")]
        """Names of the figures that need several samples, such as `"pass@4"`."""
        self._evaluation = evaluation
        self.all_roles = list(roles)
        """The agents, with any kind of noise."""
        self.roles = [role for role in roles if any(self._cell(role, level) for level in self.levels)]
        """Those that were measured with the kind of the charts."""
        self.compared = {"after", "rag"} <= {role.key for role in self.roles}
        """Whether `gap` has figures."""
        self.ceiling = any(_hops(group) is not None for group in self.groups)
        """Whether the charts of exact match show the line of a perfect reader."""
        labels = {role.agent: role.label for role in roles}
        self.incomplete = [(labels[cell.agent], cell) for cell in evaluation.cells if not cell.complete]

    def _cell(self, role: Role, level: float, kind: str | None = None) -> Cell | None:
        return self._evaluation.find(role.agent, level, noise_kind=kind or self.kind)

    def em(
        self,
        role: Role,
        level: float,
        group: str | None,
        data_source: str | None = None,
        kind: str | None = None,
        relation: str | None = None,
    ) -> Interval:
        """The exact match of an agent on a group of questions, or on those of one data set or relation."""
        cell = self._cell(role, level, kind)
        return EMPTY if cell is None else cell.summary(group, data_source, relation).em

    def score(self, role: Role, level: float, name: str) -> Interval:
        """One of `scores` of an agent, over all questions."""
        cell = self._cell(role, level)
        return EMPTY if cell is None else cell.summary().extra.get(name, EMPTY)

    def outcome(self, role: Role, level: float, name: str, kind: str | None = None) -> Interval:
        """One of `outcomes` of an agent, over all questions."""
        cell = self._cell(role, level, kind)
        outcome: Interval = EMPTY if cell is None else getattr(cell.summary(), name)
        return outcome

    def kind_gap(self, role: Role, level: float, group: str | None, kind: str) -> Interval:
        """The paired difference in exact match between another kind of noise and that of the charts."""
        return self._evaluation.kind_difference(role.agent, kind, self.kind, level, group=group)

    def of_samples(self, role: Role, level: float, name: str) -> Interval:
        """One of `sample_figures` of an agent, over all questions."""
        cell = self._cell(role, level)
        scores = None if cell is None else cell.summary().samples
        return EMPTY if scores is None else scores.named().get(name, EMPTY)

    def gap(self, level: float, group: str | None) -> Interval:
        """The paired difference in exact match between the trained agent and one-search RAG."""
        agents = {role.key: role.agent for role in self.roles}
        return self._evaluation.difference(agents["after"], agents["rag"], level, noise_kind=self.kind, group=group)

    def charts(self) -> list[Chart]:
        """The charts of exact match for each group of questions, then those of searches."""
        noise, em_charts, search_charts = self._noise_axis(), [], []
        for group in self.groups:
            lines = [self._line(role, group, lambda summary: summary.em) for role in self.roles]
            lines = [*_ceiling(group), *sorted(lines, key=lambda line: line.key == "after")]
            title = "Exact match" if len(self.kinds) == 1 else f"Exact match, {self.kind}"
            em_charts.append(Chart(of_group(title, group), "% of questions", lines, noise, share_axis("%")))
            lines = [self._line(role, group, lambda summary: summary.searches) for role in self.roles if role.searches]
            highs = [point.high for line in lines for point in line.points] or [1.0]
            y, title = fitted_axis("searches", highs), of_group("Searches per episode", group)
            search_charts.append(Chart(title, "searches, mean", lines, noise, y))
        return em_charts + search_charts

    def kind_charts(self) -> list[Chart]:
        """The charts of exact match over all questions, one for each kind of noise, if there are several."""
        if len(self.kinds) == 1:
            return []
        noise = self._noise_axis()
        return [
            Chart(
                kind,
                "exact match, % of questions",
                [self._line(role, None, lambda summary: summary.em, kind) for role in self.all_roles],
                noise,
                share_axis("%"),
                SMALL,
            )
            for kind in self.kinds
        ]

    def _noise_axis(self) -> Axis:
        ticks = tuple(sorted({0.0, 1.0, *self.levels}))
        return Axis("noise p: share of searches that are noisy, %", -0.04, 1.04, ticks, percent)

    def _line(
        self, role: Role, group: str | None, measure: Callable[[Summary], Interval], kind: str | None = None
    ) -> Series:
        points = []
        for level in self.levels:
            if cell := self._cell(role, level, kind):
                mean = measure(cell.summary(group))
                points.append(Point(level, mean.mean, mean.low, mean.high, f", n = {mean.n}"))
        return Series(role.label, role.key, points, dashed=role.dashed, markers=role.key != "oracle", band=True)


def _hops(group: str | None) -> int | None:
    digits = (group or "").removesuffix("-hop")
    return int(digits) if digits.isdigit() else None


def _ceiling(group: str | None) -> list[Series]:
    """The line of a perfect reader that searches once per hop, if the number of hops is known."""
    if (hops := _hops(group)) is None:
        return []
    points = [Point(i / 40, (1 - i / 40) ** hops) for i in range(41)]
    return [Series("perfect reading, no search repeated", "ceiling", points, dashed=True, markers=False)]


def of_group(what: str, group: str | None) -> str:
    """A heading with the group of questions that it is about."""
    return f"{what}, {group} questions" if group else what


def signed(value: float, digits: int = 0) -> str:
    """A difference of shares in points, with a sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
