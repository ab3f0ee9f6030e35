"""`zerosearch simulator label`: label each document set as useful or noisy.

    --by trajectory    the rule of the walk-through: all document sets of a trajectory are useful if its final answer
                       is right, and noisy otherwise
    --by judge         the paper's third version: a judge decides per set whether it suffices to answer the query
    --by noise         the noise that the environment drew, to imitate an engine's own noisy results

A judge is a function `(question, query, documents) -> bool`, given by `--judge module:callable`; it may call any LLM.
`--judge contains-answer` is a rule instead: a set is useful if one of its documents contains a gold answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets.files.rows import OnBadRow, RowReader, read_files
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.rewards import exact_match, sub_exact_match
from zerosearch_env.loading import code_identity, load_function
from zerosearch_env.progress import ProgressBar
from zerosearch_env.types import Document

from ...runs.manifest import input_record
from .files import StageOutput, input_files
from .records import Search, Trajectory, TrajectoryReader, as_record, holds_answer

Judge = Callable[[str, str, Sequence[Document]], bool]
"""(question, query, documents) -> whether the documents suffice to answer the query."""

CONTAINS_ANSWER = "contains-answer"


@dataclass(frozen=True)
class LabelConfig:
    """Label every document set of some trajectories as useful or noisy."""

    input: tuple[Path, ...]
    """Files, or folders of shards: trajectories from `collect`, released ones, or recorded transcripts."""
    output: Path = Path("runs/simulator/labelled.jsonl")
    """The JSONL file. Its manifest is written next to it."""
    by: Literal["trajectory", "judge", "noise"] = "trajectory"
    """Source of the labels: the final answer, a judge per document set, or the drawn noise."""
    judge: str | None = None
    """For --by judge: contains-answer, or module:callable (also file.py:callable)."""
    right: Literal["recorded", "em", "subem"] = "recorded"
    """For --by trajectory, when an answer is right: as recorded, exact match, or if it contains a gold answer."""
    concurrency: int = 1
    """Number of trajectories judged at the same time, in threads. Above 1, the judge must be thread-safe."""
    on_bad_row: OnBadRow = "raise"
    """Whether to stop at a bad row ("raise") or skip and count it ("skip")."""
    fresh: bool = False
    """Delete the output of an earlier run first."""

    def __post_init__(self) -> None:
        if (self.by == "judge") != (self.judge is not None):
            raise ConfigError(
                "--judge belongs to --by judge, and --by judge needs it (contains-answer, or module:callable)"
            )
        check_whole_number("concurrency", self.concurrency)


def run_label(config: LabelConfig, *, command: str = "") -> dict[str, int]:
    """Label the trajectories of some files; continues where an earlier run with the same options stopped.

    Returns:
        Number of trajectories, useful and noisy sets in the file; and of items left out in this session, by reason.

    Raises:
        ConfigError: an option is invalid.
        DataError: a row is bad.
        AgentError: the judge raised or did not return a bool; everything labelled before is on disk.
    """
    files = input_files(config.input, config.output)
    labeller, source = make_labeller(config), input_record(files)
    settings = {name: getattr(config, name) for name in ("by", "judge", "right", "on_bad_row")}
    settings |= {"input_sha256": source["sha256"], **code_identity([config.judge])}
    reader, where = RowReader(config.on_bad_row), ", ".join(map(str, config.input))
    trajectories = list(reader.read(read_files(files), TrajectoryReader(), where=where, what="trajectories"))
    session: Counter[str] = Counter()
    finished = False
    notes = {"input": source, "command": command}
    with StageOutput(config.output, "label", settings, tally=tally, notes=notes, fresh=config.fresh) as output:
        waiting = [trajectory for trajectory in trajectories if trajectory.id not in output.ids]
        session.update(taken_over=len(trajectories) - len(waiting), skipped_rows=reader.skipped)
        try:
            with ProgressBar("trajectories", len(trajectories), done=session["taken_over"]) as bar:
                for labelled, left_out in _labelled(waiting, labeller, config.concurrency):
                    session.update(left_out)
                    if labelled is not None:
                        output.write(as_record(labelled))
                    bar.advance(f"useful {output.counts['useful']}  noisy {output.counts['noisy']}")
            finished = True
        finally:
            output.note(session, complete=finished)
    return {**output.counts, **session}


def tally(record: Mapping[str, Any]) -> Counter[str]:
    """The contribution of one line to the counts in the manifest."""
    return Counter({"trajectories": 1}) + Counter(search["label"] for search in record["searches"])


Labelled = tuple[Trajectory | None, dict[str, int]]
"""A trajectory in which all searches are labelled (None if no search is left), and counts of what was left out."""


def make_labeller(config: LabelConfig) -> Callable[[Trajectory], Labelled]:
    """The function that labels one trajectory."""
    if config.by == "trajectory":
        return lambda trajectory: by_trajectory(trajectory, config.right)
    if config.by == "noise":
        return by_noise
    if config.judge == CONTAINS_ANSWER:
        return lambda trajectory: by_judge(trajectory, lambda walk, s: holds_answer(s.documents, walk.answers))
    judge: Judge = load_function(str(config.judge), "judge")
    return lambda trajectory: by_judge(trajectory, lambda walk, search: _ask(judge, config.judge, walk, search))


def by_trajectory(trajectory: Trajectory, right: Literal["recorded", "em", "subem"] = "recorded") -> Labelled:
    """Label all document sets useful if the final answer is right, and noisy otherwise.

    A trajectory without an end is left out, because there is no answer to score. Searches that were drawn noisy are
    left out too, because their documents are not the engine's real results for the query.
    """
    verdict = trajectory.em
    if right != "recorded" or verdict is None:
        score = sub_exact_match if right == "subem" else exact_match
        known = trajectory.prediction is not None
        verdict = bool(score(trajectory.prediction, trajectory.answers)) if known else trajectory.em
    if verdict is None:
        return None, {"without_end": 1}
    searches = [search for search in trajectory.searches if not search.noisy]
    left_out = {"drawn_noisy": len(trajectory.searches) - len(searches)}
    label: Literal["useful", "noisy"] = "useful" if verdict else "noisy"
    return _with(trajectory, [replace(search, label=label) for search in searches]), left_out


def by_noise(trajectory: Trajectory) -> Labelled:
    """Label each set by the noise drawn for its search; searches without a draw are left out."""
    searches = [search for search in trajectory.searches if search.noisy is not None]
    labelled = [replace(search, label="noisy" if search.noisy else "useful") for search in searches]
    return _with(trajectory, labelled), {"without_draw": len(trajectory.searches) - len(searches)}


def by_judge(trajectory: Trajectory, judge: Callable[[Trajectory, Search], bool]) -> Labelled:
    """Label each set by the judge's verdict."""
    labelled = [replace(s, label="useful" if judge(trajectory, s) else "noisy") for s in trajectory.searches]
    return _with(trajectory, labelled), {}


def _with(trajectory: Trajectory, searches: list[Search]) -> Trajectory | None:
    return replace(trajectory, searches=tuple(searches)) if searches else None


def _ask(judge: Judge, name: str | None, trajectory: Trajectory, search: Search) -> bool:
    where = f"judge {name!r}, trajectory {trajectory.id!r}, query {search.query!r:.100}"
    try:
        verdict = judge(trajectory.question, search.query, search.documents)
    except (Exception, SystemExit) as cause:
        raise AgentError(f"{where}: {type(cause).__name__}: {cause}") from cause
    if not isinstance(verdict, bool):
        raise AgentError(f"{where}: expected True or False, got {type(verdict).__name__}: {verdict!r:.100}")
    return verdict


def _labelled(
    trajectories: Iterable[Trajectory], labeller: Callable[[Trajectory], Labelled], concurrency: int
) -> Iterator[Labelled]:
    """Label trajectories in order, `concurrency` at a time."""
    if concurrency == 1:
        yield from map(labeller, trajectories)
        return
    # In slices, so that an interrupt or a failing judge loses at most one slice.
    waiting = iter(trajectories)
    with ThreadPoolExecutor(concurrency) as pool:
        while batch := list(islice(waiting, 4 * concurrency)):
            yield from pool.map(labeller, batch)
