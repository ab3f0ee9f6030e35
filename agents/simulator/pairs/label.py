"""`zerosearch simulator label`: which document sets are useful, and which are noisy.

    --by trajectory    the walk-through's rule: a right final answer makes all its document sets useful, a wrong one
                       noisy
    --by judge         the paper's third version: somebody says for each set whether it suffices to answer the query
    --by noise         the noise that the environment drew, for engines whose own noisy results are to be imitated

A judge is a function `(question, query, documents) -> bool` named by `--judge module:callable`; any LLM behind it will
do. `--judge contains-answer` is a rule instead: a set is useful when one of its documents holds a gold answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.rewards import contains_answer, exact_match, sub_exact_match
from zerosearch_env.types import Document, full_text

from ...evaluation.evaluate import versions
from ...players.loading import load_callable
from ..progress import CountBar
from .files import OnBadRow, RowReader, StageOutput, check_output, input_record
from .records import Search, Trajectory, TrajectoryReader, as_record

Judge = Callable[[str, str, Sequence[Document]], bool]
"""(question, query, documents) -> whether the documents suffice to answer the query."""

CONTAINS_ANSWER = "contains-answer"


@dataclass(frozen=True)
class LabelConfig:
    """Label every document set of a trajectory file as useful or noisy."""

    input: Path
    """Trajectories of `collect`, released trajectories, or recorded transcripts (JSONL, also gzipped)."""
    output: Path = Path("runs/simulator/labelled.jsonl")
    """The JSONL file; its manifest lies beside it."""
    by: Literal["trajectory", "judge", "noise"] = "trajectory"
    """What decides: the final answer, a judge for each document set, or the noise that was drawn."""
    judge: str | None = None
    """With --by judge: contains-answer, or module:callable (also file.py:callable)."""
    right: Literal["recorded", "em", "subem"] = "recorded"
    """With --by trajectory, when an answer is right: as recorded in the file, exact match, or a gold answer in it."""
    concurrency: int = 1
    """Trajectories that are with the judge at the same time, in threads; more than one needs one that is
    thread-safe."""
    on_bad_row: OnBadRow = "raise"
    """Whether a bad row stops the reading, or is skipped and counted."""
    fresh: bool = False
    """Forget what an earlier run left in the output."""


def run_label(config: LabelConfig, *, command: str = "") -> dict[str, int]:
    """Label the trajectories of a file; goes on where an earlier run with the same options stopped.

    Returns:
        Trajectories, useful and noisy sets of the file; of this session what was left out and why.

    Raises:
        ConfigError: an option cannot be used.
        DataError: a bad row.
        AgentError: the judge raised, or returned no bool; what was labelled before is on the disk.
    """
    if (config.by == "judge") != (config.judge is not None):
        raise ConfigError(
            "--judge belongs to --by judge, and --by judge needs it (contains-answer, or module:callable)"
        )
    if config.concurrency < 1:
        raise ConfigError(f"concurrency: expected at least 1, got {config.concurrency}")
    check_output(config.output, config.input)
    reader = RowReader(config.input, config.on_bad_row)
    labeller = make_labeller(config)
    settings = {k: v for k, v in asdict(config).items() if k in ("by", "judge", "right", "on_bad_row")}
    source = input_record(reader.path)
    settings["input_sha256"] = source["sha256"]
    session: Counter[str] = Counter()
    finished = False
    notes = {"input": source, "command": command, "versions": versions()}
    with StageOutput(config.output, "label", settings, tally=tally, notes=notes, fresh=config.fresh) as output:
        trajectories = list(reader.read(TrajectoryReader()))
        waiting = [trajectory for trajectory in trajectories if trajectory.id not in output.ids]
        session.update(taken_over=len(trajectories) - len(waiting), skipped_rows=reader.skipped)
        try:
            with CountBar("trajectories", len(trajectories), done=session["taken_over"]) as bar:
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
    """What one line counts for in the manifest."""
    return Counter({"trajectories": 1}) + Counter(search["label"] for search in record["searches"])


Labelled = tuple[Trajectory | None, dict[str, int]]
"""A trajectory whose searches all have labels (None: nothing is left of it), and what was left out."""


def make_labeller(config: LabelConfig) -> Callable[[Trajectory], Labelled]:
    """The function that labels one trajectory."""
    if config.by == "trajectory":
        return lambda trajectory: by_trajectory(trajectory, config.right)
    if config.by == "noise":
        return by_noise
    if config.judge == CONTAINS_ANSWER:
        return lambda trajectory: by_judge(trajectory, _holds_answer)
    judge = load_judge(str(config.judge))
    return lambda trajectory: by_judge(trajectory, lambda walk, search: _ask(judge, config.judge, walk, search))


def by_trajectory(trajectory: Trajectory, right: Literal["recorded", "em", "subem"] = "recorded") -> Labelled:
    """All document sets useful when the final answer is right, else all noisy.

    A walk without an end has no verdict and is left out; so are searches whose noise was drawn, since their documents
    are not what the engine found for the query.
    """
    verdict = trajectory.em
    if right != "recorded" or verdict is None:
        score = sub_exact_match if right == "subem" else exact_match
        known = trajectory.prediction is not None
        verdict = bool(score(trajectory.prediction, trajectory.answers)) if known else trajectory.em
    if verdict is None:
        return None, {"without_end": 1}
    kept = [search for search in trajectory.searches if not search.noisy]
    left_out = {"drawn_noisy": len(trajectory.searches) - len(kept)}
    label: Literal["useful", "noisy"] = "useful" if verdict else "noisy"
    return _with(trajectory, [replace(search, label=label) for search in kept]), left_out


def by_noise(trajectory: Trajectory) -> Labelled:
    """Each set as its search's noise was drawn; searches without a draw are left out."""
    kept = [search for search in trajectory.searches if search.noisy is not None]
    labelled = [replace(search, label="noisy" if search.noisy else "useful") for search in kept]
    return _with(trajectory, labelled), {"without_draw": len(trajectory.searches) - len(kept)}


def by_judge(trajectory: Trajectory, judge: Callable[[Trajectory, Search], bool]) -> Labelled:
    """Each set as the judge says."""
    labelled = [replace(s, label="useful" if judge(trajectory, s) else "noisy") for s in trajectory.searches]
    return _with(trajectory, labelled), {}


def load_judge(spec: str) -> Judge:
    """A judge by `module:callable`; a class is instantiated once, without arguments."""
    found: Any = load_callable(spec)
    return found() if isinstance(found, type) else found  # type: ignore[no-any-return]


def _with(trajectory: Trajectory, searches: list[Search]) -> Trajectory | None:
    return replace(trajectory, searches=tuple(searches)) if searches else None


def _holds_answer(trajectory: Trajectory, search: Search) -> bool:
    return any(contains_answer(full_text(document), trajectory.answers) for document in search.documents)


def _ask(judge: Judge, name: str | None, trajectory: Trajectory, search: Search) -> bool:
    where = f"judge {name!r}, trajectory {trajectory.id!r}, query {search.query!r:.100}"
    try:
        verdict = judge(trajectory.question, search.query, search.documents)
    except Exception as cause:
        raise AgentError(f"{where}: {type(cause).__name__}: {cause}") from cause
    if not isinstance(verdict, bool):
        raise AgentError(f"{where}: expected True or False, got {type(verdict).__name__}: {verdict!r:.100}")
    return verdict


def _labelled(
    trajectories: Iterable[Trajectory], labeller: Callable[[Trajectory], Labelled], concurrency: int
) -> Iterator[Labelled]:
    """Labels in order, `concurrency` trajectories at a time."""
    if concurrency == 1:
        yield from map(labeller, trajectories)
        return
    # In slices, so that an interrupt or a failing judge costs no more than one slice.
    waiting = iter(trajectories)
    with ThreadPoolExecutor(concurrency) as pool:
        while batch := list(islice(waiting, 4 * concurrency)):
            yield from pool.map(labeller, batch)
