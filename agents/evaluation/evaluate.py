"""Evaluation: every agent plays the same questions with the same noise draws, at every noise level.

The seed of an episode is `mix(seed, index of its question in the dataset)`. It depends neither on the agent nor on the
noise level. Two agents therefore get the same draws, so their differences are paired question by question. The draws
are also coupled across levels: a search that is noisy at one level is noisy at every higher level.

              draw u of the k-th search of a question          noisy if u < level
    level 0.25   |=====|-------------------|
    level 0.75   |================|--------|     the noisy range only grows

With several samples per question, sample 0 has that seed and sample s > 0 has `mix(seed, index, s)`: noise draws and
sampled tokens of its own. Fewer samples are therefore the first of more.

An episode in which the engine or the agent's code failed is counted and reported but excluded from the means, because
it says nothing about the agent's answers. Its cell is incomplete.

The transcripts are the journal of an evaluation: each finished episode is appended at once. An evaluation that is
continued, after a failure or a kill, plays only the episodes that have no transcript or failed.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from zerosearch_env.checks import check_whole_number
from zerosearch_env.errors import AgentError, ConfigError, DataError, EpisodeError
from zerosearch_env.files import replaced_file
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.rules import Rules
from zerosearch_env.identity import changes, text_hash
from zerosearch_env.privacy import redact
from zerosearch_env.randomness import mix
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record
from zerosearch_env.types import Question, StopReason

from ..runs.output import RESULTS_FILE, TRANSCRIPTS_FOLDER, WAY_OUT, check_settings
from .results import Cell, CellKey, EpisodeResult, Evaluation, episode_result, load_evaluation, save_evaluation

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

    from ..players.base import Player

_log = logging.getLogger(__name__)

NOISE_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)

OnProgress = Callable[[CellKey, int, float], None]
"""Called after each finished episode of a cell with the number of those that are done and their mean EM."""


@dataclass(frozen=True, slots=True)
class Item:
    """An episode to play: a question, its position in the dataset that it was chosen from, and the sample's number."""

    index: int
    question: Question
    sample: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the episode within a cell (`EpisodeResult.key`)."""
        return self.index, self.sample

    def seed(self, seed: int) -> int:
        """The seed of the episode in an evaluation with a seed; see the module docstring."""
        return mix(seed, self.index, self.sample) if self.sample else mix(seed, self.index)


def select_questions(
    questions: Sequence[Question], count: int | None, *, seed: int = 0, per_hop: bool = False
) -> list[Item]:
    """Choose questions by a seed; a larger `count` with the same seed gives a superset.

    Args:
        questions: the dataset's questions.
        count: how many to take; None, or more than there are, takes all.
        seed: random seed of the choice.
        per_hop: take `count` for each value of `metadata["hops"]` instead of `count` in total.

    Returns:
        The chosen questions in the dataset's order.

    Raises:
        DataError: there are no questions.
        ConfigError: `count` is not positive.
    """
    if not len(questions):
        raise DataError("the dataset holds no question to evaluate on")
    if count is not None and count < 1:
        raise ConfigError(f"questions: expected at least 1, got {count}")
    order = sorted(range(len(questions)), key=lambda index: mix(seed, index))
    pools: dict[Any, list[int]] = {}
    for index in order:
        hop = (questions[index].metadata or {}).get("hops") if per_hop else None
        pools.setdefault(hop, []).append(index)
    chosen = sorted(index for pool in pools.values() for index in pool[:count])
    return [Item(index, questions[index]) for index in chosen]


@dataclass
class Store:
    """The output folder of an evaluation: `results.json`, and one transcript file per cell.

    If the folder already holds results with the same settings, complete cells are reused, and so are the finished
    episodes of incomplete ones: an interrupted evaluation continues where it stopped. A cell is not reused if anything
    that it was measured with has changed.
    """

    folder: Path
    settings: Mapping[str, Any]
    """Settings that must agree for earlier cells to be reused; stored in the file."""
    agents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Agent name -> its record (`player_identity`)."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """What every cell is measured with: the record of the package and of the questions (`zerosearch_env.identity`)."""
    engines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Engine name -> its record (`engine_identity`)."""
    planned: Iterable[tuple[str, str, float]] | None = None
    """The cells that will be measured, if known: changed cells must be among them."""
    evaluation: Evaluation = field(init=False)
    replaced: str = field(init=False, default="")
    """A clause that says what has changed since cells were measured which are therefore not reused; "" if nothing."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.evaluation = Evaluation((), {**self.settings, **self._record()})
        if (self.folder / RESULTS_FILE).exists():
            try:
                earlier = load_evaluation(self.folder)
            except DataError as cause:
                raise DataError(f"{cause}; {WAY_OUT}") from cause
            self._take_over(earlier)

    def _record(self, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The identity of all cells, for the file."""
        records = {"agents": self.agents, "engines": self.engines, "contents": self.contents}
        return {name: {**(earlier or {}).get(name, {}), **now} for name, now in records.items()}

    def _take_over(self, earlier: Evaluation) -> None:
        """Reuse the cells of an earlier run, except those that something has changed for.

        Raises:
            ConfigError: the earlier run had other settings, or changed cells would stay without being measured again.
        """
        # "samples" is only recorded if there are several.
        recorded = {name: earlier.settings.get(name) for name in (*self.settings, "samples")}
        check_settings(self.folder, [], recorded, self.settings)
        reasons: dict[CellKey, list[str]] = {}
        for cell in earlier.cells:
            if why := self._changes(earlier.settings, cell.key):
                reasons[cell.key] = why
        changed = "; ".join(dict.fromkeys(reason for why in reasons.values() for reason in why))
        planned = reasons if self.planned is None else set(self.planned)
        if left := [key for key in reasons if key not in planned]:
            raise ConfigError(
                f"since the results in {self.folder} were measured, {changed}; {len(left)} of them would stay as they "
                f"are (the first is {left[0]}): {WAY_OUT}"
            )
        reused = tuple(cell for cell in earlier.cells if cell.key not in reasons)
        self.evaluation = Evaluation(reused, {**earlier.settings, **self._record(earlier.settings)})
        if reasons:
            count = "1 cell is" if len(reasons) == 1 else f"{len(reasons)} cells are"
            self.replaced = f"compared with the earlier run, {changed}: {count} measured again"

    def _changes(self, earlier: Mapping[str, Any], key: CellKey) -> list[str]:
        """What has changed since the earlier run for a cell."""
        agent, engine, _ = key
        clauses = changes(earlier.get("contents", {}), self.contents)
        for kind, name, now in (("engines", engine, self.engines), ("agents", agent, self.agents)):
            record = earlier.get(kind, {}).get(name)
            clauses += changes(record if isinstance(record, dict) else {}, now.get(name, {}))
        return clauses

    def journal(self, key: CellKey, items: Sequence[Item]) -> Journal:
        """The journal of a cell: the finished episodes that a run with the same settings and agent has left."""
        agent, engine, level = key
        made_with = [self.settings, self.agents.get(agent), self.contents, self.engines.get(engine)]
        run = text_hash(json.dumps(made_with, sort_keys=True, default=str))
        earlier = self.evaluation.find(agent, level, engine)
        seconds = 0.0 if earlier is None else earlier.seconds
        return Journal(transcript_path(self.folder, key), key, run, items, seconds=seconds)

    def add(self, *cells: Cell, **notes: Any) -> None:
        """Add cells and write the file.

        Args:
            cells: the cells; one with the same key is replaced.
            notes: further information (command, versions) that need not agree when the evaluation is continued.
        """
        self.evaluation = self.evaluation.merged(cells, **notes)
        save_evaluation(self.evaluation, self.folder)


def transcript_path(folder: Path, key: CellKey) -> Path:
    """Path of a cell's transcripts in the output folder of an evaluation."""
    agent, engine, level = key
    name = "__".join((_slug(agent), _slug(engine), f"noise-{level:.4g}"))
    return folder / TRANSCRIPTS_FOLDER / f"{name}.jsonl"


def evaluate(
    agent: Player,
    questions: Sequence[Question | Item],
    engine: SearchEngine,
    rules: Rules,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
    *,
    samples: int = 1,
    engine_name: str = "engine",
    store: Store | None = None,
    on_progress: OnProgress | None = None,
    on_cell: Callable[[Cell, bool], None] | None = None,
) -> Evaluation:
    """Play every question at every noise level.

    Args:
        agent: the player; see `agents/players`.
        questions: questions (their position is their index), or the result of `select_questions`.
        engine: the search engine; each request carries the noise drawn for it.
        rules: protocol, limits and reward. `agent.rules_for(rules)` may change them (a policy has its own protocol).
        noise_levels: noise probabilities in [0, 1].
        seed: random seed of the evaluation; see the module docstring.
        samples: episodes per question.
        engine_name: name of the engine in the results.
        store: where results and transcripts are written during the evaluation; None keeps results in memory only.
        on_progress: called after each finished episode.
        on_cell: called with each complete cell, and whether it was reused from an earlier run.

    Returns:
        One cell per noise level.

    Raises:
        AgentError: a third-party agent failed and is to stop then (`AgentOptions.on_error`); the store holds every
            episode finished before that.
        ConfigError: no noise level was given, one lies outside [0, 1], or `samples` is below 1.
    """
    check_whole_number("samples", samples)
    levels = list(dict.fromkeys(check_level(level) for level in noise_levels))
    if not levels:
        raise ConfigError("no noise level to evaluate at; give at least one, for example 0.5")
    chosen = [q if isinstance(q, Item) else Item(i, q) for i, q in enumerate(questions)]
    if not chosen:
        raise DataError("no question to evaluate on")
    items = [replace(item, sample=sample) for item in chosen for sample in range(samples)]
    cells: list[Cell] = []
    for level in levels:
        key = CellKey(agent.name, engine_name, level)
        cell = store.evaluation.find(agent.name, level, engine_name) if store else None
        taken_over = cell is not None and cell.complete and cell.samples == samples
        if cell is None or not taken_over:
            if cells and not agent.searches:
                # An agent that never searches draws no noise, so its episodes are the same at every level.
                cell = replace(cells[0], noise_level=level, seconds=0.0)
            else:
                cell = _play_cell(agent, items, engine, rules, key, seed, samples, on_progress, store)
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
    seed: int,
    samples: int,
    on_progress: OnProgress | None,
    store: Store | None,
) -> Cell:
    """Play what is missing of a cell; finished episodes are kept even if it fails."""
    with store.journal(key, items) if store else Journal(None, key, "", items) as journal:
        done = journal.finished
        started = time.perf_counter() - journal.seconds

        def cell() -> Cell:
            rows = tuple(done[key] for key in sorted(done))
            return Cell(*key, len(items), rows, seconds=time.perf_counter() - started, samples=samples)

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
        try:
            play_items(agent, waiting, engine, rules, key.noise_level, seed, record)
        finally:
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
) -> None:
    """Play questions to their end; `record` gets each finished episode once, even if the player fails.

    Raises:
        AgentError: the player failed or left an episode unfinished, or code that it plays with called `sys.exit`.
    """
    own_rules = player.rules_for(rules)

    def make(position: int) -> Episode:
        item = items[position]
        return Episode(item.question, own_rules, noise_level=noise_level, seed=item.seed(seed))

    episodes = PlannedEpisodes(len(items), make)

    def on_done(position: int) -> None:
        if (episode := episodes.release(position)) is not None:
            record(items[position], episode)

    try:
        player.play(episodes, engine, on_done)
    except SystemExit as cause:  # it would end the evaluation without a word
        raise AgentError(
            f"agent {player.name!r}: the code of the engine or the protocol called sys.exit({cause.code!r})"
        ) from cause
    finally:
        for position in episodes.done:
            on_done(position)
    if left := episodes.unreleased:
        first = items[left[0]].question.id
        raise AgentError(f"agent {player.name!r} left {len(left)} episodes unfinished, the first is {first!r}")


class PlannedEpisodes(Sequence[Episode]):
    """Episodes that are made when they are first taken, and dropped when they are released.

    So an evaluation holds the episodes that are being played, however many there are.

    Args:
        count: number of episodes.
        make: makes the episode at a position.
    """

    def __init__(self, count: int, make: Callable[[int], Episode]) -> None:
        self._make = make
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


class Journal:
    """The transcripts of a cell, from which an interrupted cell is continued: one line per finished episode.

    Args:
        path: the file; None keeps nothing.
        key: the cell. Two cells may share a file, if their names differ only in characters unsuited to file names.
        run: a hash of the settings and the agent. Lines with another one are removed.
        items: the episodes of the cell.
        seconds: how long the cell was played before.

    Attributes:
        finished: results of the episodes that need not be played again, by `Item.key`. Lines of failed episodes, and
            damaged lines, are removed.
    """

    def __init__(
        self, path: Path | None, key: CellKey, run: str, items: Sequence[Item], *, seconds: float = 0.0
    ) -> None:
        self.finished: dict[tuple[int, int], EpisodeResult] = {}
        self.seconds = seconds
        self._key, self._run = key, run
        self._writer = None if path is None else TranscriptWriter(path)
        if path is not None and path.exists():
            self._read(path, {item.key for item in items})

    def write(self, episode: Episode, item: Item) -> EpisodeResult:
        """Append a finished episode; returns its result."""
        agent, engine, _ = self._key
        hops = (episode.question.metadata or {}).get("hops")
        sample = {"sample": item.sample} if item.sample else {}
        record = transcript_record(
            episode, agent=agent, engine=engine, index=item.index, **sample, hops=hops, run=self._run
        )
        if self._writer is not None:
            self._writer.write(record)
        return episode_result(record)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _read(self, path: Path, keys: Collection[tuple[int, int]]) -> None:
        """Read what earlier runs have left, and rewrite the file without the lines that no longer count."""
        with path.open("rb") as lines:  # line by line: a large cell has gigabytes of them
            counts = bytes(self._take_over(line, keys) for line in lines)
        if not all(counts):
            with path.open("rb") as lines, replaced_file(path) as stream:
                stream.writelines(compress(lines, counts))

    def _take_over(self, line: bytes, keys: Collection[tuple[int, int]]) -> bool:
        """Take over the result on a line, if it still counts; returns whether the line stays in the file."""
        try:
            record = json.loads(line)
            extra = record["extra"]
            if (extra["agent"], extra["engine"], record["noise_level"]) != self._key:
                return True
            result = episode_result(record)
        except (ValueError, KeyError, TypeError):
            return False  # cut off by a kill, or damaged
        if extra.get("run") != self._run or result.failed or result.key not in keys:
            return False
        self.finished[result.key] = result
        return True


def forget(folder: Path) -> None:
    """Remove the files that an earlier evaluation wrote into a folder, and nothing else."""
    (folder / RESULTS_FILE).unlink(missing_ok=True)
    for file in (folder / TRANSCRIPTS_FOLDER).glob("*.jsonl"):
        file.unlink()


def _slug(name: str) -> str:
    """A name with the characters unsuited to file names replaced by "-"."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-") or "agent"
