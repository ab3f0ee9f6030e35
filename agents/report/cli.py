"""`zerosearch report`: write the page of a run again, and its charts as figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.errors import DataError

from .page import read_report, write_report


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html into the folder of a run or of an evaluation: robustness, learning curves, transcripts."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The output folder of `zerosearch train`, `quickstart` or `eval`."""
    figures: Path | None = None
    """Also write each chart into a file in this folder, for papers. Needs the extra `plots`."""
    format: Literal["pdf", "svg", "png"] = "pdf"
    """Format of the figures."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch report`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code 0.

    Raises:
        ZeroSearchError: the folder is missing or holds nothing to show, or matplotlib is missing.
    """
    config = read_options(ReportConfig, argv, "zerosearch report")
    charts = read_report(config.folder).charts()
    if not charts:
        raise DataError(f"{config.folder} holds neither metrics.jsonl nor results.json: there is nothing to report")
    if config.figures is not None:
        from .figures import save_each

        for path in save_each(charts, config.figures, config.format):
            print(f"wrote {path}")
    print(f"wrote {write_report(config.folder)}")
    return 0
