"""The tables of `zerosearch simulator evaluate`: the same rows in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

Figure = Mapping[str, Any]
"""A figure with its interval, in the form of `Interval.as_dict`."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One table."""

    title: str
    header: tuple[str, ...]
    rows: list[list[str]]


_LEVEL_ROWS = (
    ("realised noise %", "realised_noise", 100),
    ("useful sets with the question's answer %", "useful_with_answer", 100),
    ("useful sets with their hop's answer %", "useful_with_hop_answer", 100),
    ("  what was sought, before resampling", "useful_with_sought_before", 100),
    ("  a first hop's with the question's answer %", "useful_too_early", 100),
    ("noisy sets with the question's answer %", "noisy_with_answer", 100),
    ("  before the guard", "noisy_with_answer_before", 100),
    ("noisy sets with their hop's answer %", "noisy_with_hop_answer", 100),
    ("documents / s", "documents_per_second", 1),
    ("words a document", "words", 1),
    ("different documents %", "documents", 100),
    ("different word pairs in a set %", "word_pairs", 100),
    ("shared words of two documents of a set %", "overlap", 100),
)
"""Name, key in the report of a level or in its part "distinct", and scale."""
_COUNT_ROWS = ("failed", "completions", "resamples", "redactions", "unusable", "cache_hits")
_STYLE_ROWS = (
    ("words, JS in bits", "words", 3),
    ("word pairs, JS in bits", "word_pairs", 3),
    ("character triples, JS in bits", "character_triples", 3),
    ("length, in words", "length", 1),
)


def tables(report: Mapping[str, Any]) -> list[Rows]:
    """The tables of a report."""
    sections = [_levels(report)]
    for level in report["style"]["levels"]:
        sections.append(_style(report["style"]["reference"], level))
    if report["attacks"] is not None:
        sections.append(_attacks(report["attacks"]))
    return sections


def print_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the tables; in a narrow terminal the intervals are below their figures."""
    console = console or Console()
    for rows in tables(report):
        table = Table(title=rows.title, box=box.SIMPLE_HEAD, title_justify="left")
        narrow = console.width < 48 + 22 * (len(rows.header) - 1)
        for i, name in enumerate(rows.header):
            table.add_column(name, justify="right" if i else "left", min_width=None if i else 24)
        for row in rows.rows:
            table.add_row(row[0], *(cell.replace(" [", "\n[") if narrow else cell for cell in row[1:]))
        console.print(table)


def as_markdown(report: Mapping[str, Any]) -> str:
    """The tables and some example documents as Markdown."""
    parts = [f"# Evaluation of `{report['engine']}`\n\n`{report['command']}`\n\n"]
    parts.append(
        f"{report['searches']} searches of {report['questions']} questions, {report['top_k']} documents each.\n"
    )
    for rows in tables(report):
        parts.append(f"\n## {rows.title}\n\n{_markdown(rows.header, rows.rows)}")
    parts.append("\n## Some documents\n")
    for example in report["examples"]:
        kind = "noisy" if example["noisy"] else "useful"
        parts.append(f"\n- {kind}, query `{example['query']}`, answers {', '.join(example['answers'])}\n")
        parts += [f"  - {text}\n" for text in example["documents"]]
        parts += [f"  - real: {text}\n" for text in example["real"]]
    return "".join(parts)


def _levels(report: Mapping[str, Any]) -> Rows:
    levels = report["levels"]
    header = ("figure [95 %]", *(f"noise {level['noise_level']:g}" for level in levels))
    rows = []
    for name, key, scale in _LEVEL_ROWS:
        figures = [_figure((level | level["distinct"]).get(key), scale) for level in levels]
        if any(figure != "-" for figure in figures):
            rows.append([name, *figures])
    for key in _COUNT_ROWS:
        if any(level.get(key) for level in levels):
            rows.append([key.replace("_", " "), *(str(level.get(key, "-")) for level in levels)])
    return Rows(f"Noise levels, {levels[0]['searches']} searches each", header, rows)


def _style(reference: str, level: Mapping[str, Any]) -> Rows:
    header = (f"distance from {reference}", "this engine", "a template", "the reference from itself")
    rows = [
        [name, *(_figure(level[who][key], 1, digits) for who in ("engine", "template", "reference"))]
        for name, key, digits in _STYLE_ROWS
    ]
    rows.append(["words a document", _figure(level["words"], 1), "", _figure(level["reference_words"], 1)])
    return Rows(f"Style at noise {level['noise_level']:g}", header, rows)


def _attacks(attacks: Mapping[str, Any]) -> Rows:
    header = ("noisy sets with the answer %", "before the guard", "after", "after, encoded", "searches", "failed")
    rows = []
    for name, family in [*attacks["families"].items(), ("all", attacks["all"])]:
        figures = [_figure(family[key], 100) for key in ("before", "after", "encoded")]
        rows.append([name, *figures, str(family["searches"]), str(family["failed"])])
    return Rows(f"{attacks['queries']} attacks on {attacks['questions']} questions", header, rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _figure(value: Figure | None, scale: float, digits: int = 1) -> str:
    if value is None or value["mean"] is None:
        return "-"
    mean = f"{scale * value['mean']:.{digits}f}"
    if value["low"] is None:
        return mean
    return f"{mean} [{scale * value['low']:.{digits}f}, {scale * value['high']:.{digits}f}]"
