"""The episodes of `zerosearch demos`: which are played at which noise level, and the file that they are recorded in.

The file is the journal: each episode is appended when it is over, with a hash of what it was made with, so that an
interrupted run continues. The plan is a function of the seed and the position alone:

    position     0      1      2      3      ...          questions in the order that the seed draws
    noise        0      0.25   0.5    0                   the levels in turn
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.base import check_corpus, try_engine
from zerosearch_env.engines.registry import engine_identity
from zerosearch_env.errors import AgentError, ConfigError, DataError
from zerosearch_env.files import replaced_file
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise import check_level
from zerosearch_env.identity import dataset_identity, text_hash
from zerosearch_env.progress import ProgressBar, work_figures
from zerosearch_env.randomness import mix
from zerosearch_env.records.transcripts import encode_line, read_transcripts
from zerosearch_env.types import Dataset, JsonObject, Question

from ..evaluation.evaluate import play_items
from ..evaluation.items import Item
from ..evaluation.results import CellKey
from ..evaluation.store import Journal
from ..players.base import Player
from ..players.identity import player_identity
from ..runs.output import WAY_OUT
from .options import DemosConfig
from .searcher import ScriptedSearcher

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine


def play(config: DemosConfig) -> Sequence[JsonObject]:
    """Play the episodes that are missing in `config.played`, and read it.

    Returns:
        The transcripts of all planned episodes, in the order of the plan; also of those that failed.

    Raises:
        ConfigError: an option is invalid, or the file belongs to a run with other options.
        DataError: there is no question to play.
        AgentError: a third-party agent failed; everything finished before is in the file.
    """
    check_whole_number("episodes", config.episodes)
    check_whole_number("samples", config.samples)
    if not config.noise:
        raise ConfigError("no noise level given: pass at least one, for example --noise 0 0.5")
    levels = [check_level(level) for level in config.noise]
    rules = config.make_rules()
    dataset = config.load_dataset(config.split)
    with contextlib.ExitStack() as stack:
        player = _make_player(config, stack)
        own_rules = player.rules_for(rules)
        plan = _plan(config, _order(config, dataset, player), levels)
        questions = list({item.index: item.question for item, _ in plan}.values())
        check_prompts(own_rules, questions)
        for note in player.notes(rules):
            print(note)
        if config.samples > 1 and player.greedy:
            print(f"{player.name}: temperature 0, so samples differ only by their noise; pass --temperature 1")
        engine = make_engine(config.engine, dataset=dataset)
        stack.callback(engine.close)
        check_corpus(engine, questions, own_rules.top_k, noise=max(levels) > 0)
        try_engine(engine, questions, own_rules.top_k)
        run = _run_hash(config, dataset, player, engine)
        _prepare(config, run)
        journals = {}
        for level in sorted(set(levels)):
            items = [item for item, at in plan if at == level]
            journal = Journal(config.played, CellKey(player.name, config.engine, level), run, items)
            journals[level] = stack.enter_context(journal), items
        done = sum(len(journal.finished) for journal, _ in journals.values())
        bar = stack.enter_context(ProgressBar("episodes", len(plan), done=done, live=work_figures()))
        for level, (journal, items) in journals.items():

            def record(item: Item, episode: Episode, journal: Journal = journal) -> None:
                journal.write(episode, item)
                bar.advance()

            waiting = [item for item in items if item.key not in journal.finished]
            try:
                play_items(player, waiting, engine, rules, level, config.seed, record)
            except (AgentError, KeyboardInterrupt):
                print(f"stopped; {config.played} has the episodes so far, and the same command plays the rest")
                raise
    by_key = {_key(record): record for record in read_transcripts(config.played)}
    records = [by_key[item.key] for item, _ in plan if item.key in by_key]
    write_records(config.played, records)  # in the order of the plan, however often it was interrupted
    return records


def write_records(path: Path, records: Iterable[JsonObject]) -> None:
    """Write transcripts to a file as a whole."""
    with replaced_file(path) as stream:
        stream.writelines(map(encode_line, records))


def _key(record: JsonObject) -> tuple[int, int]:
    """`Item.key` of the episode of a transcript."""
    return record["extra"]["index"], record["extra"].get("sample", 0)


def _make_player(config: DemosConfig, stack: contextlib.ExitStack) -> Player:
    if config.agent is None:
        return ScriptedSearcher(config.habits, seed=config.seed)
    (player,) = config.make_players([config.agent], stack)
    return player


def _order(config: DemosConfig, dataset: Dataset, player: Player) -> list[tuple[int, Question]]:
    """The questions that are played, in the order drawn by the seed, each with its position in the dataset."""
    indices = sorted(range(len(dataset.questions)), key=lambda index: mix(config.seed, index))
    order = [(index, dataset.questions[index]) for index in indices]
    if not order:
        raise DataError("the dataset holds no question to play")
    if not isinstance(player, ScriptedSearcher):
        return order
    suited = [(index, question) for index, question in order if player.suits(question)]
    if not suited:
        raise DataError(
            f"{dataset.name}/{dataset.split}: every gold answer is yes or no, which documents do not state: the "
            "scripted searcher cannot show how to find them; pass an agent with --agent"
        )
    if left := len(order) - len(suited):
        print(f"{left} of {len(order)} questions are left out: documents do not state their answers, yes or no")
    return suited


def _plan(
    config: DemosConfig, order: Sequence[tuple[int, Question]], levels: Sequence[float]
) -> list[tuple[Item, float]]:
    """Every episode and its noise level. More episodes of the same options only add to it."""
    plan = []
    for number in range(config.episodes):
        group, sample = divmod(number, config.samples)
        again, place = divmod(group, len(order))
        index, question = order[place]
        # `again` and `sample` also count, so that a question is not always asked at the same level.
        level = levels[(place + again + sample) % len(levels)]
        plan.append((Item(index, question, again * config.samples + sample), level))
    return plan


def _run_hash(config: DemosConfig, dataset: Dataset, player: Player, engine: SearchEngine) -> str:
    """What an earlier run must share for its episodes to be kept; their number is not part of it."""
    rules = config.make_rules()
    names = ("engine", "split", "samples", "noise")
    made_with = [
        {**config.play_settings(rules), **{name: getattr(config, name) for name in names}},
        player_identity(player, rules=rules),
        dataset_identity(dataset, prompts=player.rules_for(rules).dataset_prompts),
        engine_identity(engine, config.engine),
    ]
    return text_hash(json.dumps(made_with, sort_keys=True, default=str))


def _prepare(config: DemosConfig, run: str) -> None:
    """Check that what is in `config.played` is the beginning of this run.

    Raises:
        ConfigError: it is not, or another file is in the way of the output.
    """
    if config.fresh:
        config.played.unlink(missing_ok=True)
        config.output.unlink(missing_ok=True)
    if not config.played.exists():
        if config.output.exists():
            raise ConfigError(f"{config.output} exists already; {WAY_OUT}")
        return
    runs = [record["extra"].get("run") for record in read_transcripts(config.played)]
    if set(runs) - {run}:
        raise ConfigError(f"{config.played} holds episodes of other options, data or files; {WAY_OUT}")
    if len(runs) > config.episodes:
        raise ConfigError(f"{config.played} holds {len(runs)} episodes, more than {config.episodes}; {WAY_OUT}")
