"""Additional scores of episodes that were played before, computed from their transcripts.

    transcripts/*.jsonl -> RecordedEpisode -> score -> EpisodeResult.extra -> results.json

Nothing is played, and no engine or agent is needed. A score from a server (`judge:...`) is asked for in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from zerosearch_env.errors import ConfigError, DataError, UnjudgedError
from zerosearch_env.game.reward_registry import Reward, get_scores, pay
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.loading import code_identity
from zerosearch_env.privacy import redact
from zerosearch_env.records.transcripts import read_transcripts
from zerosearch_env.types import JsonObject, StopReason

from ...runs.output import TRANSCRIPTS_FOLDER
from ..episodes import EpisodeResult, episode_result
from ..results import Cell, CellKey, Evaluation
from .check import same_episode
from .recorded import recorded_episode

_AT_ONCE = 64
"""Episodes whose scores wait for a server at the same time."""

Values = dict[str, float | None]
"""The value of each new score; None if it has none."""


def rescore(evaluation: Evaluation, folder: Path, scores: Sequence[str], *, protocol: str | None = None) -> Evaluation:
    """Add scores to an evaluation.

    Args:
        evaluation: the results.
        folder: the folder with its transcripts.
        scores: names of scores, or `"judge:openai:URL"`, or your own `"file.py:function"`; see docs/rewards.md.
        protocol: your own protocol, as `"file.py:attribute"`, if the transcripts are of one; None: that of the
            transcripts, which must be registered.

    Returns:
        The evaluation with the scores in the `extra` of every episode, and what they are in its settings.

    Raises:
        ConfigError: a score is unknown, raises, or is in the results already; or the protocol is unknown.
        DataError: a finished episode has no transcript, or one that says something else than the results.
    """
    found = [(spec, name, reward) for spec in scores for name, reward in get_scores([spec])]
    names = [name for _, name, _ in found]
    if not found:
        raise ConfigError(f"no score to add: every result has {', '.join(map(repr, scores)) or 'its own'} already")
    if twice := [name for name in names if name in evaluation.additional_scores or names.count(name) > 1]:
        raise ConfigError(f"the score {twice[0]!r} is there already: leave it out, or give your function another name")
    named = [(name, reward) for _, name, reward in found]
    rules_of = _rules_of(protocol)
    stored = {cell.key.played: {result.key: result for result in cell.episodes} for cell in evaluation.cells}
    values: dict[CellKey, dict[tuple[int, int], Values]] = {key: {} for key in stored}
    records = (
        (key, result, record)
        for key, result, record in _records(folder / TRANSCRIPTS_FOLDER)
        if key in stored and (known := stored[key].get(result.key)) is not None and same_episode(known, result)
    )
    for key, result, scored in _scored(records, named, rules_of):
        values[key][result.key] = scored
    cells = tuple(_with_scores(cell, _values_of(cell, evaluation, values)) for cell in evaluation.cells)
    added = {name: {"score": redact(spec), **code_identity([spec, protocol])} for spec, name, _ in found}
    return Evaluation(cells, {**evaluation.settings, "rescored": {**evaluation.settings.get("rescored", {}), **added}})


def _rules_of(protocol: str | None) -> Callable[[str], Rules]:
    """A function from the name of a transcript's protocol to its rules."""

    @cache
    def rules_of(name: str) -> Rules:
        try:
            return make_rules(protocol=protocol or name)
        except ConfigError as cause:
            raise ConfigError(
                f"{cause} The transcripts are of protocol {name!r}: pass --protocol for your own."
            ) from cause

    return rules_of


def _records(folder: Path) -> Iterator[tuple[CellKey, EpisodeResult, JsonObject]]:
    """The episodes of a folder of transcripts.

    Raises:
        DataError: there is no file, or a line is not the transcript of a finished episode.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError(
            f"there are no transcripts in {folder}: scores are computed from the transcripts of an evaluation"
        )
    for file in files:
        for record in read_transcripts(file):
            try:
                key = CellKey.of_transcript(record)
                result = episode_result(record)
            except (KeyError, TypeError) as cause:
                raise DataError(f"{file}: not a transcript of an evaluation ({cause!r})") from cause
            yield key, result, record


def _scored(
    records: Iterable[tuple[CellKey, EpisodeResult, JsonObject]],
    named: Sequence[tuple[str, Reward]],
    rules_of: Callable[[str], Rules],
) -> Iterator[tuple[CellKey, EpisodeResult, Values]]:
    """The new scores of each episode; those that wait for a server in threads."""

    def score(entry: tuple[CellKey, EpisodeResult, JsonObject]) -> tuple[CellKey, EpisodeResult, Values]:
        key, result, record = entry
        episode = recorded_episode(record, rules_of(record["protocol"]))
        failed = episode.stop_reason is StopReason.ENGINE_ERROR  # there is nothing to score
        return key, result, {name: None if failed else _pay(reward, episode) for name, reward in named}

    if any(getattr(reward, "waits", False) for _, reward in named):
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            waiting = iter(records)
            while block := list(islice(waiting, 4 * _AT_ONCE)):  # transcripts may be larger than memory
                yield from pool.map(score, block)
    else:
        yield from map(score, records)


def _pay(reward: Reward, episode: Any) -> float | None:
    try:
        return float(pay(reward, episode))
    except UnjudgedError:
        return None


def _values_of(
    cell: Cell, evaluation: Evaluation, values: dict[CellKey, dict[tuple[int, int], Values]]
) -> dict[tuple[int, int], Values]:
    """The new scores of a cell: its own, or those of a cell with the same episodes."""
    if own := values[cell.key.played]:
        return own
    return next((found for twin in evaluation.twins(cell.key) if (found := values[twin.key.played])), {})


def _with_scores(cell: Cell, values: dict[tuple[int, int], Values]) -> Cell:
    """The cell with new scores in its episodes.

    Raises:
        DataError: a finished episode has none.
    """
    missing = [result for result in cell.finished if result.key not in values]
    if missing:
        raise DataError(
            f"{cell.key}: {len(missing)} of {len(cell.finished)} finished episodes have no transcript that says what "
            f"results.json says; the first is question {missing[0].index}. A score needs all of them: play the "
            "evaluation again with --scores"
        )
    nothing: Values = {}
    rows = (replace(result, extra={**result.extra, **values.get(result.key, nothing)}) for result in cell.episodes)
    return replace(cell, episodes=tuple(rows))
