"""`zerosearch simulator collect`: an agent answers questions with a search engine, and every search is recorded.

The output has one line per trajectory, written as soon as its episode is over. Run again with the same options, it
plays only the questions that have no line yet. A line cut off by a kill is removed and its question played again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.registry import engine_identity
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.rules import Rules
from zerosearch_env.identity import dataset_identity
from zerosearch_env.loading import code_identity
from zerosearch_env.progress import ProgressBar
from zerosearch_env.types import Dataset

from ...evaluation.evaluate import play_items
from ...evaluation.items import Item, select_questions
from ...players.base import Player
from ...players.identity import player_identity
from ...players.options import PlayConfig
from .files import StageOutput
from .records import as_record, from_episode

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

BATCH = 512
"""Episodes in play at the same time. It bounds the memory, and the work lost if a batching policy is killed."""


@dataclass(frozen=True)
class CollectConfig(PlayConfig):
    """Let an agent answer questions with a search engine and keep every query with its documents."""

    agent: str = "baseline:rag-own"
    """The agent, as in `zerosearch eval`: a policy directory, "tiny", your own module:callable, or baseline:NAME."""
    engine: str = "corpus"
    """The search engine, as in `zerosearch eval`."""
    split: str = "train"
    """Split of the dataset."""
    questions: int | None = None
    """Number of questions, chosen by the seed; unset: all. With the same seed a run can be extended."""
    output: Path = Path("runs/simulator/trajectories.jsonl")
    """The JSONL file. Its manifest is written next to it."""
    fresh: bool = False
    """Delete the output of an earlier run first."""
    noise: float = 0.0
    """Probability that a search is noisy, in [0, 1]. Set it above 0 to imitate the engine's own noisy results
    (`label --by noise`)."""


def run_collect(config: CollectConfig, *, command: str = "") -> dict[str, int]:
    """Collect trajectories into `config.output`.

    Ctrl-C stops it; everything finished until then is on disk.

    Args:
        config: the options.
        command: the command line, stored in the manifest.

    Returns:
        Number of trajectories, searches and right answers in the file, and of failures in this session.

    Raises:
        ConfigError: an option is invalid, or the output belongs to a run with other options.
        AgentError: a third-party agent failed; everything finished before is on disk.
    """
    check_level(config.noise)
    rules = config.make_rules()
    dataset = config.load_dataset(config.split)
    items = select_questions(dataset.questions, config.questions, seed=config.seed)
    with contextlib.ExitStack() as stack:
        (player,) = config.make_players([config.agent], stack)
        if not player.searches:
            raise ConfigError(f"agent {config.agent!r} never searches: there would be nothing to collect")
        check_prompts(player.rules_for(rules), [item.question for item in items])
        for note in player.notes(rules):
            print(note)
        engine = make_engine(config.engine, dataset=dataset)
        stack.callback(engine.close)
        output = stack.enter_context(
            StageOutput(
                config.output,
                "collect",
                _settings(config, rules, dataset, player, engine),
                tally=tally,
                notes={"command": command, "skipped_rows": dataset.skipped_rows},
                fresh=config.fresh,
            )
        )
        return collect(player, items, engine, rules, output, noise=config.noise, seed=config.seed)


def tally(record: Mapping[str, Any]) -> dict[str, int]:
    """The contribution of one line to the counts in the manifest."""
    return {"trajectories": 1, "searches": len(record["searches"]), "right": int(bool(record["em"]))}


def collect(
    player: Player,
    items: Sequence[Item],
    engine: SearchEngine,
    rules: Rules,
    output: StageOutput,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, int]:
    """Play the items that have no line in `output` yet; returns counts over all its lines and of this session.

    An episode in which the engine or the agent's code failed gets no line, so that it is played again next time.
    """
    waiting = [item for item in items if _id(item) not in output.ids]
    session = {"taken_over": len(items) - len(waiting), "engine_failures": 0, "agent_failures": 0}

    def record(item: Item, episode: Episode) -> None:
        if episode.stop_reason is not None and episode.stop_reason.failed:
            session[f"{episode.stop_reason.removesuffix('_error')}_failures"] += 1
        else:
            output.write(as_record(from_episode(episode, id=_id(item), agent=player.name)))
        bar.advance(f"right {output.counts['right']}  searches {output.counts['searches']}")

    finished = False
    try:
        with ProgressBar("episodes", len(items), done=session["taken_over"]) as bar:
            for start in range(0, len(waiting), BATCH):
                play_items(player, waiting[start : start + BATCH], engine, rules, noise, seed, record)
        finished = not (session["engine_failures"] or session["agent_failures"])
    finally:
        output.note(session, complete=finished)
    return {**output.counts, **session}


def _id(item: Item) -> str:
    """A unique id: the index makes it unique even if ids in the dataset repeat."""
    return f"{item.index}-{item.question.id}"


def _settings(
    config: CollectConfig, rules: Rules, dataset: Dataset, player: Player, engine: SearchEngine
) -> dict[str, Any]:
    """The settings that an earlier run must share for its lines to be kept. The number of questions is not one."""
    collect_settings = {name: getattr(config, name) for name in ("engine", "split", "noise")}
    agent = {"agent": player.name, **player_identity(player, rules=rules)}
    contents = (
        dataset_identity(dataset, prompts=player.rules_for(rules).dataset_prompts)
        | engine_identity(engine, config.engine)
        | code_identity([config.protocol or ""])
    )
    return {**config.play_settings(rules), **collect_settings, **agent, **contents}
