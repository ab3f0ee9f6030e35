r"""`zerosearch demos`: demonstrations for a warm start, as transcripts that `zerosearch sft` reads.

    zerosearch demos --dataset questions.jsonl --engine corpus:passages.jsonl --episodes 300 --output demos.jsonl

A scripted searcher that sees the gold answers plays the questions of any dataset with any engine. It plans, searches,
searches again when the documents miss the answer, and answers; it is imperfect on purpose, at the rates of --habits.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

from zerosearch_env.checks import check_whole_number
from zerosearch_env.command_line import read_options
from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.base import check_corpus, try_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise import check_level
from zerosearch_env.progress import ProgressBar
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record

from ..evaluation.evaluate import Item, play_items, select_questions
from ..players.options import PlayConfig
from .searcher import Habits, ScriptedSearcher


@dataclass(frozen=True)
class DemosConfig(PlayConfig):
    """Make demonstrations for a warm start: a scripted searcher plays questions with known answers."""

    engine: str = "corpus"
    """The search engine, as in `zerosearch eval`."""
    split: str = "train"
    """Split of the dataset."""
    episodes: int = 300
    """Number of episodes, one for each question chosen by the seed; with more episodes than questions, questions are
    asked several times. A larger number adds episodes to those of a smaller one."""
    noise: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Noise levels, dealt out over the episodes: the probability that a search is noisy, each in [0, 1]."""
    habits: Habits = field(default_factory=Habits)
    """Rates of the scripted searcher's behaviours."""
    output: Path = Path("runs/demos.jsonl")
    """The JSONL file."""
    fresh: bool = False
    """Delete the output of an earlier run first."""


def main(argv: list[str] | None = None) -> int:
    """Parse the options and make the demonstrations.

    Returns:
        The exit status.
    """
    config = read_options(DemosConfig, sys.argv[1:] if argv is None else argv, "zerosearch demos", description=__doc__)
    run_demos(config)
    return 0


def run_demos(config: DemosConfig) -> None:
    """Play the episodes and write those that are kept to `config.output`."""
    check_whole_number("episodes", config.episodes)
    levels = [check_level(level) for level in config.noise]
    rules = config.make_rules()
    dataset = config.load_dataset(config.split)
    if config.fresh:
        config.output.unlink(missing_ok=True)
    if config.output.exists():
        raise ConfigError(f"{config.output} exists already: choose another --output, or pass --fresh")
    player = ScriptedSearcher(config.habits, seed=config.seed)
    rules = player.rules_for(rules)
    order = select_questions(dataset.questions, min(config.episodes, len(dataset.questions)), seed=config.seed)
    questions = [item.question for item in order]
    check_prompts(rules, questions)
    plan = [
        (Item(item.index, item.question, number // len(order)), levels[(number + number // len(order)) % len(levels)])
        for number in range(config.episodes)
        for item in [order[number % len(order)]]
    ]
    totals: list[tuple[float, int]] = []
    with contextlib.ExitStack() as stack:
        engine = make_engine(config.engine, dataset=dataset)
        stack.callback(engine.close)
        check_corpus(engine, questions, rules.top_k, noise=max(levels) > 0)
        try_engine(engine, questions, rules.top_k)
        writer = stack.enter_context(TranscriptWriter(config.output))
        bar = stack.enter_context(ProgressBar("episodes", len(plan)))

        def record(item: Item, episode: Episode) -> None:
            line = transcript_record(episode, agent=player.name, engine=config.engine, index=item.index)
            writer.write(line)
            totals.append((line["scores"]["em"], line["scores"]["searches"]))
            bar.advance()

        for level in dict.fromkeys(levels):
            play_items(player, [item for item, at in plan if at == level], engine, rules, level, config.seed, record)
    em, searches = (sum(column) / len(totals) for column in zip(*totals, strict=True))
    print(f"{len(totals)} episodes, EM {100 * em:.1f} %, {searches:.2f} searches per episode: {config.output}")
