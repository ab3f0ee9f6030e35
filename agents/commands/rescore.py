"""`zerosearch rescore`: additional scores of an evaluation from its transcripts, without playing.

zerosearch rescore runs/eval --score r1_searcher_f1 deepresearcher_em
zerosearch rescore runs/eval --score judge:openai:http://127.0.0.1:8001/v1 --output runs/judged
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.locks import locked

from ..evaluation.join import read_source
from ..evaluation.results import save_evaluation
from ..evaluation.stored.rescore import rescore


@dataclass(frozen=True)
class RescoreConfig:
    """Add scores to the results of an evaluation."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The output folder of `zerosearch eval` or `zerosearch bench robustness`, with its transcripts."""
    score: tuple[str, ...]
    """Scores to add: names such as zerosearch_em or r1_searcher_cover_em (docs/rewards.md), an LLM's verdict as
    judge:openai:URL[#MODEL], or your own file.py:function."""
    output: Path | None = None
    """Folder for the new results.json; unset: that of the evaluation, whose results.json is replaced."""
    protocol: str | None = None
    """Your own protocol, file.py:attribute, if the transcripts are of one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch rescore`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        The exit status 0.

    Raises:
        ConfigError: a score is unknown, or in the results already.
        DataError: the folder holds no results, or transcripts are missing.
    """
    config = read_options(RescoreConfig, argv, "zerosearch rescore", description=__doc__)
    folder = read_source(config.folder).folder
    output = folder if config.output is None else config.output
    with locked(output):
        evaluation = rescore(read_source(folder).evaluation, folder, config.score, protocol=config.protocol)
        path = save_evaluation(evaluation, output)
    episodes = sum(len(cell.finished) for cell in evaluation.cells)
    names = ", ".join(name for name in evaluation.additional_scores if name in evaluation.settings["rescored"])
    print(f"{episodes:,} episodes in {len(evaluation.cells)} cells have the scores {names}")
    print(f"results: {path}")
    return 0
