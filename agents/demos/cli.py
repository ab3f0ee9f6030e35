r"""`zerosearch demos`: demonstrations for a warm start, as transcripts that `zerosearch sft` reads.

    zerosearch demos --dataset questions.jsonl --engine corpus:passages.jsonl --episodes 300 --output demos.jsonl
    zerosearch demos --agent runs/sft/policy --temperature 1 --samples 8 --keep em=1 --episodes 4000 ...
    zerosearch demos --from runs/eval --keep em=1 --per-question 2

By default a scripted searcher that sees the gold answers plays. It plans, searches, searches again when the documents
miss the answer, and answers; it is imperfect on purpose, at the rates of --habits. With --agent any agent of
`zerosearch eval` plays, and --keep chooses by scores (rejection sampling). With --from nothing is played: the episodes
are those of an evaluation, or of files of transcripts.

To continue an interrupted command, run it again: it plays only the episodes that are missing.

Exit status: 0, 3 if episodes are missing because the agent or the engine failed, 2 after any other error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zerosearch_env.checks import check_whole_number
from zerosearch_env.command_line import read_options
from zerosearch_env.errors import AgentError, ConfigError, DataError
from zerosearch_env.privacy import redact
from zerosearch_env.records.transcripts import read_transcripts
from zerosearch_env.types import JsonObject

from ..runs.output import WAY_OUT, transcript_files
from .keep import RECORDED, is_finished, mean_scores, parse_condition, question_key, select
from .options import DemosConfig
from .play import play, write_records


def main(argv: list[str] | None = None) -> int:
    """Parse the options and make the demonstrations.

    Returns:
        The exit status: 0, or 3 if episodes are missing because the agent or the engine failed.
    """
    config = read_options(DemosConfig, sys.argv[1:] if argv is None else argv, "zerosearch demos", description=__doc__)
    return AgentError.exit_status if run_demos(config) else 0


def run_demos(config: DemosConfig) -> int:
    """Play the episodes, or read those of other files, and write the ones that are kept to `config.output`.

    Args:
        config: the options.

    Returns:
        Number of episodes that are missing because the agent or the engine failed.

    Raises:
        ConfigError: an option is invalid, or the output belongs to a run with other options.
        DataError: no episode is kept, or a file cannot be read.
        AgentError: a third-party agent failed; everything finished before is on disk.
    """
    conditions = [parse_condition(text) for text in config.keep]
    if config.per_question is not None:
        check_whole_number("per_question", config.per_question)
    if not config.sources:
        for condition in conditions:
            condition.check(RECORDED)
    records = read_sources(config) if config.sources else play(config)
    finished = [record for record in records if is_finished(record)]
    if not finished:
        cause = next((record["error"] for record in records if record["error"]), "they were cut off")
        raise DataError(f"none of {len(records)} episodes was finished; the first cause: {redact(cause)}")
    kept = list(select(finished, conditions, config.per_question)) if config.filters else finished
    if not kept:
        raise DataError(
            f"none of {_count(finished, 'episode')} meets {' and '.join(map(str, conditions))}. Their means: "
            f"{_means(finished)}. Lower the bound, or play more samples (--samples, --temperature) or a better agent"
        )
    write_records(config.output, kept)
    for level in sorted({record["noise_level"] for record in kept}):
        part = [record for record in kept if record["noise_level"] == level]
        print(f"noise {level:g}: {_count(part, 'episode')}, {_means(part)}")
    if config.filters:
        print(f"kept of {_count(finished, 'episode')} with {_means(finished)}")
    questions = len({question_key(record) for record in kept})
    print(f"{_count(kept, 'demonstration')} of {questions} questions: {config.output}")
    failed = 0 if config.sources else len(records) - len(finished)
    if failed:
        cause = next(str(record["error"]) for record in records if not is_finished(record))
        print(f"{failed} of {len(records)} episodes failed, the same command plays them again: {redact(cause)}")
    return failed


def read_sources(config: DemosConfig) -> Sequence[JsonObject]:
    """The transcripts of the files and evaluations of `--from`.

    Raises:
        ConfigError: another option does not fit, or the output is in the way.
        DataError: a file or folder is missing, or holds no transcripts.
    """
    if config.agent is not None:
        raise ConfigError("--from plays nothing, so there is no agent: pass --agent or --from")
    files = [file for source in config.sources for file in transcript_files(source)]
    if config.output.exists():
        if any(config.output.samefile(file) for file in files):
            raise ConfigError(f"{config.output} is both input and output: choose another --output")
        if not config.fresh:
            raise ConfigError(f"{config.output} exists already; {WAY_OUT}")
    return [record for file in files for record in read_transcripts(file)]


def _means(records: Sequence[JsonObject]) -> str:
    """The mean scores of episodes, such as "EM 81.3 %, F1 84.0 %, 1.46 searches"."""
    means = mean_scores(records)
    shares = [f"{name} {100 * means[key]:.1f} %" for name, key in (("EM", "em"), ("F1", "f1"), ("subEM", "subem"))]
    return ", ".join([*shares, f"{means['searches']:.2f} searches"])


def _count(records: Sequence[object], what: str) -> str:
    return f"{len(records):,} {what}" + ("" if len(records) == 1 else "s")
