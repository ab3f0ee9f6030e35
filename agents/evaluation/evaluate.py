"""Evaluation: every agent plays the same questions with the same noise draws, at every noise level and kind of noise.

The seed of an episode is `mix(seed, index of its question in the dataset)`. It depends neither on the agent nor on the
noise. Two agents therefore get the same draws, so their differences are paired question by question, and so are those
between kinds of noise. The draws are also coupled across levels: a search that is noisy at one level is noisy at every
higher level.

              draw u of the k-th search of a question          noisy if u < level
    level 0.25   |=====|-------------------|
    level 0.75   |================|--------|     the noisy range only grows

Without noise all kinds are the same, so level 0 is played once for all of them.

With several samples per question, sample 0 has that seed and sample s > 0 has `mix(seed, index, s)`: noise draws and
sampled tokens of its own. Fewer samples are therefore the first of more.

An episode in which the engine or the agent's code failed is counted and reported but excluded from the means, because
it says nothing about the agent's answers. Its cell is incomplete.

The transcripts are the journal of an evaluation: each finished episode is appended at once. An evaluation that is
continued, after a failure or a kill, plays only the episodes that have no transcript or failed.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

from zerosearch_env.checks import check_whole_number
from zerosearch_env.engines.base import check_noise_kinds
from zerosearch_env.errors import AgentError, BudgetError, ConfigError, DataError, EpisodeError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.noise_kinds import DISTRACTOR, NoiseKinds, NoiseMixture, NoiseSpec, read_mixture
from zerosearch_env.game.rules import Rules
from zerosearch_env.privacy import redact
from zerosearch_env.types import Question, StopReason

from ..players.base import blocks
from .budget import Meter, Spending
from .items import Item
from .results import Cell, CellKey, Evaluation
from .store import Journal, Store

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

    from ..players.base import Player

_log = logging.getLogger(__name__)

NOISE_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_BLOCK = 64
"""With a budget, a player that takes many episodes at once is given so many: they are what it may be exceeded by."""

OnProgress = Callable[[CellKey, int, float], None]
"""Called after each finished episode of a cell with the number of those that are done and their mean EM."""


def evaluate(
    agent: Player,
    questions: Sequence[Question | Item],
    engine: SearchEngine,
    rules: Rules,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
    *,
    noise_kinds: Sequence[NoiseSpec | NoiseMixture] = (DISTRACTOR,),
    samples: int = 1,
    engine_name: str = "engine",
    store: Store | None = None,
    meter: Meter | None = None,
    on_progress: OnProgress | None = None,
    on_cell: Callable[[Cell, bool], None] | None = None,
) -> Evaluation:
    """Play every question at every noise level, with every kind of noise.

    Args:
        agent: the player; see `agents/players`.
        questions: questions (their position is their index), or the result of `select_questions`.
        engine: the search engine; each request carries the noise drawn for it.
        rules: protocol, limits and reward. `agent.rules_for(rules)` may change them (a policy has its own protocol).
        noise_levels: noise probabilities in [0, 1].
        seed: random seed of the evaluation; see the module docstring.
        noise_kinds: kinds of noise, or mixtures of them; `add_noise_kinds` gives them to the engine.
        samples: episodes per question.
        engine_name: name of the engine in the results.
        store: where results and transcripts are written during the evaluation; None keeps results in memory only.
        meter: measures what is spent, and ends the evaluation when a budget is used up; None does neither.
        on_progress: called after each finished episode.
        on_cell: called with each complete cell, and whether it was reused from an earlier run.

    Returns:
        One cell per kind of noise and noise level.

    Raises:
        AgentError: a third-party agent failed and is to stop then (`AgentOptions.on_error`); the store holds every
            episode finished before that.
        BudgetError: the budget of the meter is used up: the episodes that had begun are finished and in the store.
        ConfigError: no noise level or kind was given, a level lies outside [0, 1], `samples` is below 1, or a kind is
            unknown or none of the engine's.
    """
    check_whole_number("samples", samples)
    levels = list(dict.fromkeys(check_level(level) for level in noise_levels))
    if not levels:
        raise ConfigError("no noise level to evaluate at; give at least one, for example 0.5")
    mixtures = list(dict.fromkeys(map(read_mixture, noise_kinds)))
    if not mixtures:
        raise ConfigError('no kind of noise to evaluate with; leave it out for "distractor"')
    chosen = [q if isinstance(q, Item) else Item(i, q) for i, q in enumerate(questions)]
    if not chosen:
        raise DataError("no question to evaluate on")
    items = [replace(item, sample=sample) for item in chosen for sample in range(samples)]
    if any(levels):
        check_noise_kinds(engine, NoiseKinds(tuple(mixtures)).kinds)
    cells: list[Cell] = []
    for mixture, level in itertools.product(mixtures, levels):
        key = CellKey(agent.name, engine_name, level, str(mixture))
        cell = store.evaluation.find(agent.name, level, engine_name, str(mixture)) if store else None
        taken_over = cell is not None and cell.complete and cell.samples == samples
        if cell is None or not taken_over:
            if twins := Evaluation(tuple(cells)).twins(key, searches=agent.searches):
                cell = replace(twins[0], noise_level=level, noise_kind=str(mixture), seconds=0.0, spent=None)
            else:
                kinds = mixture if level else DISTRACTOR
                cell = _play_cell(agent, items, engine, rules, key, kinds, seed, samples, on_progress, store, meter)
        cells.append(cell)
        if store:
            store.add(cell)
        if on_cell:
            on_cell(cell, taken_over)
    return Evaluation(tuple(cells), store.settings if store else {"seed": seed})


def _play_cell(
    agent: Player,
    items: Sequence[Item],
    engine: SearchEngine,
    rules: Rules,
    key: CellKey,
    noise_kinds: NoiseMixture,
    seed: int,
    samples: int,
    on_progress: OnProgress | None,
    store: Store | None,
    meter: Meter | None,
) -> Cell:
    """Play what is missing of a cell; finished episodes are kept even if it fails."""
    begun = store.evaluation.find(key.agent, key.noise_level, key.engine, key.noise_kind) if store else None
    spent = None if meter is None else Spending(**(begun.spent or {})) if begun else Spending()
    with store.journal(key, items) if store else Journal(None, key, "", items) as journal:
        done = journal.finished
        started = time.perf_counter() - journal.seconds

        def cell() -> Cell:
            rows = tuple(done[key] for key in sorted(done))
            seconds = time.perf_counter() - started
            return Cell(
                **key._asdict(),
                planned=len(items),
                episodes=rows,
                seconds=seconds,
                samples=samples,
                spent=None if spent is None else spent.as_dict(),
            )

        right, valid = sum(result.em for result in done.values()), len(done)
        warned = False

        def record(item: Item, episode: Episode) -> None:
            nonlocal right, valid, warned
            result = done[item.key] = journal.write(episode, item)
            if not result.failed:
                right, valid = right + result.em, valid + 1
            elif not warned and result.stop_reason == StopReason.ENGINE_ERROR:
                # A dead server costs every episode its retries: say so now, not hours later at the end of the cell.
                warned = True
                cause = redact(str(result.error))
                _log.warning("%s: a search failed, and the other episodes are played: %s", key, cause)
            if on_progress:
                on_progress(key, len(done), right / valid if valid else 0.0)

        waiting = [item for item in items if item.key not in done]
        if meter:
            meter.begin(agent)
        try:
            play_items(agent, waiting, engine, rules, key.noise_level, seed, record, noise_kinds, meter)
        finally:
            if meter and spent is not None:
                spent += meter.end()
            if store and len(done) < len(items):
                store.add(cell())
    return cell()


def play_items(
    player: Player,
    items: Sequence[Item],
    engine: SearchEngine,
    rules: Rules,
    noise_level: float,
    seed: int,
    record: Callable[[Item, Episode], None],
    noise_kinds: NoiseMixture = DISTRACTOR,
    meter: Meter | None = None,
) -> None:
    """Play questions to their end; `record` gets each finished episode once, even if the player fails.

    Raises:
        AgentError: the player failed or left an episode unfinished, or code that it plays with called `sys.exit`.
        BudgetError: the budget of the meter is used up, and episodes are left.
    """
    own_rules = player.rules_for(rules)

    def make(position: int) -> Episode:
        item = items[position]
        return Episode(item.question, own_rules, noise_level=noise_level, noise_kinds=noise_kinds, seed=item.seed(seed))

    limited = meter is not None and bool(meter.budget)
    episodes = PlannedEpisodes(len(items), make, before=meter.check if meter is not None else None)

    def on_done(position: int) -> None:
        if (episode := episodes.release(position)) is not None:
            record(items[position], episode)

    try:
        if limited and not player.one_by_one:
            for block, done in blocks(episodes, on_done, _BLOCK):
                player.play(block, engine, done)
        else:
            player.play(episodes, engine, on_done)
    except SystemExit as cause:  # it would end the evaluation without a word
        raise AgentError(
            f"agent {player.name!r}: the code of the engine or the protocol called sys.exit({cause.code!r})"
        ) from cause
    finally:
        for position in episodes.done:
            on_done(position)
    if (left := episodes.unreleased) and meter is not None and meter.used_up:
        raise BudgetError(f"the budget is used up: {meter.describe()}")
    if left:
        first = items[left[0]].question.id
        raise AgentError(f"agent {player.name!r} left {len(left)} episodes unfinished, the first is {first!r}")


class PlannedEpisodes(Sequence[Episode]):
    """Episodes that are made when they are first taken, and dropped when they are released.

    So an evaluation holds the episodes that are being played, however many there are.

    Args:
        count: number of episodes.
        make: makes the episode at a position.
        before: called before an episode is made; what it raises is raised to whoever takes the episode.
    """

    def __init__(self, count: int, make: Callable[[int], Episode], before: Callable[[], None] | None = None) -> None:
        self._make, self._before = make, before
        self._held: dict[int, Episode] = {}
        self._released = bytearray(count)

    def __len__(self) -> int:
        return len(self._released)

    @overload
    def __getitem__(self, position: int) -> Episode: ...

    @overload
    def __getitem__(self, position: slice) -> list[Episode]: ...

    def __getitem__(self, position: int | slice) -> Episode | list[Episode]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        position = range(len(self))[position]
        if self._released[position]:
            raise EpisodeError(
                f"episode {position} is over and was recorded, so it is no longer held; read it before `on_done`"
            )
        if position not in self._held:
            if self._before is not None:
                self._before()
            self._held[position] = self._make(position)
        return self._held[position]

    def release(self, position: int) -> Episode | None:
        """Stop holding an episode and return it; None if it was released before."""
        if self._released[position]:
            return None
        episode = self[position]
        del self._held[position]
        self._released[position] = True
        return episode

    @property
    def done(self) -> list[int]:
        """Positions of the held episodes that are over, in order."""
        return sorted(position for position, episode in self._held.items() if episode.done)

    @property
    def unreleased(self) -> list[int]:
        """Positions of the episodes that have not been released, in order."""
        return [position for position, released in enumerate(self._released) if not released]
