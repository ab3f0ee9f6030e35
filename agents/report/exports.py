"""The results of evaluations as text files for papers and scripts: Markdown, CSV and LaTeX.

CSV has one row per cell and the columns `COLUMNS`; docs/report.md describes them. Markdown and LaTeX have a table of
exact match, one row per agent and kind of noise, one column per level; Markdown also has tables by data source and by
relation, and of additional scores.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..evaluation.analysis.robustness import Curve, curves, levels_of
from ..evaluation.results import Cell, Evaluation
from ..evaluation.statistics import EMPTY, Interval
from .kinds import OUTCOMES, outcome_shares

FORMATS = ("md", "csv", "tex")
_MEANS = ("em", "f1", "subem", "searches", "misled", "abstained", "hallucinated", "truthfulness", "recall")
COLUMNS = (
    *("agent", "engine", "noise_kind", "noise_level", "questions", "samples", "episodes", "planned", "complete"),
    *(f"{name}{end}" for name in _MEANS for end in ("", "_low", "_high")),
    *(f"share_{name.replace(' ', '_')}" for name in OUTCOMES),
    *(
        "invalid_rate",
        "realised_noise",
        "engine_failures",
        "agent_failures",
        "tokens_read",
        "tokens_written",
        "seconds",
    ),
)
"""Columns of the CSV file. Shares are in [0, 1]; `_low` and `_high` end the 95 % interval; empty: unknown."""


def export(evaluation: Evaluation, form: str) -> str:
    """The results in one of `FORMATS`."""
    return {"md": to_markdown, "csv": to_csv, "tex": to_latex}[form](evaluation)


def to_csv(evaluation: Evaluation) -> str:
    """One row per cell, see `COLUMNS`. A name that a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in evaluation.cells:
        summary = cell.summary()
        row: dict[str, object] = {
            **{name: _safe(getattr(cell, name)) for name in ("agent", "engine", "noise_kind")},
            "noise_level": cell.noise_level,
            "questions": summary.em.n,
            "samples": cell.samples,
            "episodes": len(cell.finished),
            "planned": cell.planned,
            "complete": cell.complete,
            "invalid_rate": summary.invalid_rate,
            "realised_noise": summary.realised_noise,
            **{name: getattr(summary, name) for name in COLUMNS[-5:-1]},
            "seconds": cell.seconds,
            **{f"share_{share.name.replace(' ', '_')}": share.share for share in outcome_shares(cell)},
        }
        for name in _MEANS:
            mean: Interval = getattr(summary, name)
            row |= {name: mean.mean, f"{name}_low": mean.low, f"{name}_high": mean.high}
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def _safe(text: str) -> str:
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _plain(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def to_markdown(evaluation: Evaluation) -> str:
    """Tables in % with 95 % intervals, per engine.

    They are of exact match, by group of questions, data source and relation, and of the additional scores.
    """
    parts = []
    for engine, group, rows in _tables(evaluation):
        title = f"Exact match, %{f', {group} questions' if group else ''}, engine {engine} (95 % interval)"
        lines = [[curve.agent, curve.noise_kind, *_fields(evaluation, curve, _markdown_interval)] for curve in rows]
        parts.append(_markdown_table(title, ["agent", "noise"], _heads(evaluation), lines))
    return "\n".join([*parts, *_markdown_subsets(evaluation)])


def _markdown_subsets(evaluation: Evaluation) -> Iterator[str]:
    """The tables by data source and by relation, and those of additional scores: one row per agent, kind and name."""
    heads = _heads(evaluation)[:-1]
    subsets = {
        "data source": (evaluation.data_sources, "Exact match by data source, %"),
        "relation": (evaluation.relations, "Exact match by relation, %"),
        "score": (evaluation.additional_scores, "Additional scores, times 100"),
    }
    for engine in evaluation.engines:
        measured = dict.fromkeys((cell.agent, cell.noise_kind) for cell in evaluation.cells if cell.engine == engine)
        for what, (names, title) in subsets.items():
            lines = []
            for agent, kind in sorted(measured, key=lambda row: evaluation.agents.index(row[0])):
                cells = levels_of(evaluation, agent, engine, kind)
                for name in names:
                    means = [_part_of(cells.get(level), what, name) for level in evaluation.noise_levels]
                    lines.append([agent, kind, name, *(_markdown_interval(mean) if mean.n else "" for mean in means)])
            if lines:
                yield _markdown_table(
                    f"{title}, engine {engine} (95 % interval)", ["agent", "noise", what], heads, lines
                )


def _part_of(cell: Cell | None, what: str, name: str) -> Interval:
    """The exact match of a cell on a data source or a relation, or one of its additional scores."""
    if cell is None:
        return EMPTY
    if what == "score":
        return cell.summary().extra.get(name, EMPTY)
    return cell.summary(data_source=name).em if what == "data source" else cell.summary(relation=name).em


def _markdown_table(title: str, names: Sequence[str], figures: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a title; columns of names, then columns of figures."""
    lines = [[*names, *figures], [*["---"] * len(names), *["---:"] * len(figures)], *rows]
    table = "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)
    return f"**{markdown_text(title)}**\n\n{table}\n"


def to_latex(evaluation: Evaluation) -> str:
    r"""A `table` with booktabs rules per engine and group of questions; needs `\usepackage{booktabs}`."""
    parts = []
    for engine, group, rows in _tables(evaluation):
        heads = _heads(evaluation)
        lines = [rf"\begin{{tabular}}{{ll{'r' * len(heads)}}}", r"\toprule"]
        lines.append(" & ".join(["Agent", "Noise", *(f"${head}$" if "=" in head else head for head in heads)]) + r" \\")
        last = None
        for curve in rows:
            lines.append(r"\midrule" if curve.agent != last else "")
            name, last = "" if curve.agent == last else curve.agent, curve.agent
            fields = _fields(evaluation, curve, _latex_interval)
            lines.append(" & ".join([_latex(name), _latex(curve.noise_kind), *fields]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        of = f" on {_latex(group)} questions" if group else ""
        caption = rf"Exact match (\%){of} by noise level $p$, engine {_latex(engine)}; small: 95\,\% interval."
        body = "\n".join(filter(None, lines))
        parts.append(f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{body}\n\\end{{table}}\n")
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def _tables(evaluation: Evaluation) -> Iterable[tuple[str, str, list[Curve]]]:
    """Engine, group of questions ("" for all) and curves of each table."""
    for engine in evaluation.engines:
        for group in ("", *(evaluation.groups if len(evaluation.groups) > 1 else ())):
            yield engine, group, sorted_by_agent(curves(evaluation, engine, group or None), evaluation.agents)


def sorted_by_agent(found: Sequence[Curve], agents: Sequence[str]) -> list[Curve]:
    """The curves of an agent next to each other."""
    return sorted(found, key=lambda curve: agents.index(curve.agent))


def _heads(evaluation: Evaluation) -> list[str]:
    return [*(f"p = {level:g}" for level in evaluation.noise_levels), "area"]


def _fields(evaluation: Evaluation, curve: Curve, form: Callable[[Interval], str]) -> list[str]:
    means = [curve.points.get(level) for level in evaluation.noise_levels] + [curve.area]
    return [form(mean) if mean is not None and mean.n else "" for mean in means]


def _markdown_interval(mean: Interval) -> str:
    return f"{100 * mean.mean:.1f} ({100 * mean.low:.0f} to {100 * mean.high:.0f})"


def _latex_interval(mean: Interval) -> str:
    return rf"{100 * mean.mean:.1f} {{\scriptsize [{100 * mean.low:.0f}, {100 * mean.high:.0f}]}}"


def markdown_text(text: str) -> str:
    """Text in a heading or in a field of a table: markup of Markdown and HTML has no effect."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{char}" if char in r"\`*_[]|#" else char for char in plain)


_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
