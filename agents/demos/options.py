"""The options of `zerosearch demos`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ..players.options import PlayConfig
from .searcher import Habits


@dataclass(frozen=True)
class DemosConfig(PlayConfig):
    """Make demonstrations for a warm start: a scripted searcher plays, or the best episodes of an agent are kept."""

    agent: str | None = None
    """The agent that plays, as in `zerosearch eval`; unset: the scripted searcher, which sees the gold answers."""
    engine: str = "corpus"
    """The search engine, as in `zerosearch eval`."""
    split: str = "train"
    """Split of the dataset."""
    episodes: int = 300
    """Number of episodes to play, of questions in an order drawn by the seed; with more episodes than questions each is
    asked several times. A larger number adds episodes to those of a smaller one."""
    samples: int = 1
    """Episodes per question that follow each other, each with its own noise draws and sampled tokens."""
    noise: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Noise levels, dealt out over the episodes: the probability that a search is noisy, each in [0, 1]."""
    habits: Habits = field(default_factory=Habits)
    """Rates of the scripted searcher's behaviours."""
    keep: tuple[str, ...] = ()
    """Keep only episodes with these scores, such as em=1, "f1>=0.8" or "searches<=3"; of several, all must hold. What
    was played stays in a file next to the output."""
    per_question: int | None = None
    """Keep at most this many episodes of each question; unset: all."""
    # "from" is a word of the language.
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")] = ()
    """Play nothing, and take the episodes from these output folders of `zerosearch eval`, or files of transcripts."""
    output: Path = Path("runs/demos.jsonl")
    """The JSONL file."""
    fresh: bool = False
    """Delete the output of an earlier run first."""

    @property
    def filters(self) -> bool:
        """Whether only some of the episodes are kept."""
        return bool(self.keep or self.sources) or self.per_question is not None

    @property
    def played(self) -> Path:
        """The file of all episodes that were played: the output, unless only some are kept."""
        return self.output.with_name(f"{self.output.stem}-played.jsonl") if self.filters else self.output
