"""`zerosearch report`: write the page of a run or of evaluations, and their tables and charts for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zerosearch_env.checks import check_whole_number
from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.files import write_text

from ..runs.output import REPORT_FILE
from . import exports, figures
from .episodes import TRANSCRIPTS
from .page import Report, read_joined, read_report, write_page


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html: robustness curves, tables, learning curves, and the episodes of all agents side by side.

    Of several folders, one page compares the agents. They must have been given the same questions, seed and rules.
    """

    folder: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Output folders of `zerosearch train`, `quickstart`, `eval` or `bench robustness`."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """The HTML file; unset: report.html in the folder, or in the current one if there are several."""
    format: tuple[Literal["html", "md", "csv", "tex", "svg", "pdf", "png"], ...] = ("html",)
    """Also write tables as Markdown, CSV or LaTeX next to the page, or each chart as SVG, PDF or PNG (needs the extra
    `plots`). The page itself is always written."""
    figures: Path | None = None
    """Folder for the charts; unset: NAME_figures next to the page. Without a format of charts it means PDF."""
    transcripts: int = TRANSCRIPTS
    """Transcripts of each agent on the page. The others are in the folder NAME_files next to it."""
    single_file: bool = False
    """Write no such folder: the page then lacks the other transcripts, and can be sent or published on its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch report`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code 0.

    Raises:
        ZeroSearchError: a folder is missing or holds nothing to show, folders cannot be compared, or matplotlib is
            missing.
    """
    config = read_options(ReportConfig, argv, "zerosearch report")
    check_whole_number("transcripts", config.transcripts, least=0)
    if not config.folder:
        raise ConfigError("no folder given: expected the output folder of an evaluation or of a run")
    single = len(config.folder) == 1
    report = read_report(config.folder[0]) if single else read_joined(config.folder)
    page = config.output or (config.folder[0] / REPORT_FILE if single else Path(REPORT_FILE))
    charts = report.charts()
    if not charts:
        raise DataError(f"{config.folder[0]} holds neither metrics.jsonl nor results.json: there is nothing to report")
    page.parent.mkdir(parents=True, exist_ok=True)
    for path in _write_others(config, report, page):
        print(f"wrote {path}")
    print(f"wrote {write_page(report, page, transcripts=config.transcripts, files=not config.single_file)}")
    return 0


def _write_others(config: ReportConfig, report: Report, page: Path) -> list[Path]:
    """Write the tables and charts that were asked for; returns their paths."""
    paths = []
    for form in dict.fromkeys(name for name in config.format if name in exports.FORMATS):
        if not report.evaluation.cells:
            raise DataError(f"{config.folder[0]} holds no results of an evaluation: there is no table to write")
        paths.append(page.with_suffix(f".{form}"))
        write_text(paths[-1], exports.export(report.evaluation, form))
    drawn: dict[str, None] = dict.fromkeys(name for name in config.format if name in figures.FORMATS)
    if not drawn and config.figures is not None:
        drawn = dict.fromkeys(figures.FORMATS[:1])
    folder = config.figures or page.with_name(f"{page.stem}_figures")
    for file_type in drawn:
        paths += figures.save_each(report.charts(), folder, file_type)
    return paths
