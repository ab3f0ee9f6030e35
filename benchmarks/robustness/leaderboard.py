"""The leaderboard of the robustness benchmark: docs/leaderboard.md, written from the records of committed runs.

    python -m zerosearch_benchmarks.robustness.leaderboard                     # write the page again
    python -m zerosearch_benchmarks.robustness.leaderboard --add runs/mine --note "mine=What it is, in one line."
                                                            # check a run, add its records with the note, write

A run is added only if `zerosearch compare --check` accepts its folder and it follows a definition of this package.
"""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from zerosearch_agents.config.definition import Definition
from zerosearch_agents.report.exports import markdown_text
from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError, DataError, ZeroSearchError
from zerosearch_env.files import write_text
from zerosearch_env.identity import text_hash

from ..measure import RESULTS
from .records import Record, add_note, add_record, make_records, read_records, shipped_definitions

NAME = "python -m zerosearch_benchmarks.robustness.leaderboard"
PAGE = RESULTS.parents[1] / "docs" / "leaderboard.md"


@dataclass(frozen=True)
class LeaderboardConfig:
    """Write the leaderboard from its records."""

    add: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """An output folder of `zerosearch bench robustness` whose agents are added first; may be repeated."""
    note: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=TEXT says in one line what the agent of that name is, in all its records; may be repeated."""
    records: Path = RESULTS / "robustness"
    """Folder of the records."""
    page: Path = PAGE
    """The page to write."""


def main(argv: Sequence[str] | None = None) -> int:
    """Add runs, and write the page.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        The exit status, 0.

    Raises:
        DataError: a folder is refused, a record was changed by hand, or the page's folder does not exist.
        ConfigError: a note is not NAME=TEXT, or no record is of that agent.
    """
    config = read_options(LeaderboardConfig, argv, NAME, description=__doc__)
    if not config.page.parent.is_dir():
        raise DataError(
            f"{config.page.parent} is not a folder: run this in a checkout of the repository, or give --page"
        )
    notes = [_read_note(entry) for entry in config.note]
    # All folders are checked before the first record is written.
    for record in [record for folder in config.add for record in make_records(folder)]:
        print(f"added: {add_record(record, config.records)}")
    for agent, text in notes:
        for file in add_note(agent, text, config.records):
            print(f"noted: {file}")
    write_text(config.page, page(read_records(config.records)))
    print(f"page:  {config.page}")
    return 0


def _read_note(entry: str) -> tuple[str, str]:
    agent, equals, text = entry.partition("=")
    if not agent or not equals:
        raise ConfigError(f"note: expected NAME=TEXT, for example mine='Qwen3-8B as downloaded', got {entry!r}")
    return agent, text


_HEAD = """# Leaderboard of the robustness benchmark

How robust search agents are to noisy searches, measured by `zerosearch bench robustness` ([how](robustness.md)). This
page is written from the records in `benchmarks/results/robustness/`; a test compares them.

All shares are in %, with 95 % intervals over questions in brackets. The agents of a definition had the same questions,
passages and noise draws. Its first table has the mean over its kinds of noise, its second says what the agents are, its
third has exact match by kind, and the rest is folded, one table per agent.

| column | what it is |
|---|---|
| area | mean exact match over p = 0, 0.25, 0.5 and 0.75; agents are sorted by it |
| EM clean, EM | exact match without noise, and at p = 0.5 |
| misled, abstained, hallucinated | [what the answers came to](noise.md#what-an-answer-came-to), at p = 0.5 |
| truthfulness | EM minus hallucinated at p = 1, where every search is noisy; negative if most answers are wrong |
| searches | per episode, at p = 0.5 |
| tokens, seconds | tokens that its model wrote, and wall seconds, per episode without noise; several may play at once |
| version | of this package |
"""

_SUBMIT = """## How to submit

```sh
zerosearch bench robustness --definition v1 --agent mine=my_agent.py:agent --output runs/mine
zerosearch compare runs/mine --check
python -m zerosearch_benchmarks.robustness.leaderboard --add runs/mine --note "mine=Qwen3-8B as downloaded, greedy."
```

- The first command plays; the same command continues an interrupted run.
- The second says whether the folder is a whole and unchanged run: settings, hashes, cells, transcripts
  ([what it checks](results.md#checking-a-benchmark-run)).
- The third, in a checkout of the repository, checks the same, adds a record per agent and writes this page. A folder
  that was edited or is incomplete, or is of other data or another definition, is refused with the reasons. The note
  says in one line what the agent is: model, training, seed, reward, and where its code and weights are.

The second and the third run nothing that is in a folder. Open a pull request with the record and the page. Say where
the whole folder is: a record has the command, versions and hashes, but no episodes. Hashes show edits and damage. They
do not prove who wrote a file, nor that an agent did not know the answers, so a result is worth what others can repeat.
"""


_HEADINGS = {"em": "EM", "em_clean": "EM clean"}


def page(records: Iterable[Record], definitions: Sequence[Definition] | None = None) -> str:
    """The leaderboard as Markdown.

    Args:
        records: as `read_records` returns them.
        definitions: those that have tables; None: those that come with the package.
    """
    rows = list(records)
    parts = [_HEAD]
    for definition in definitions or shipped_definitions():
        chosen = [record for record in rows if record["definition"]["hash"] == definition.hash]
        if chosen:
            parts.append("\n".join(_definition(definition, sorted(chosen, key=_rank))))
    return "\n".join([*parts, _SUBMIT])


def _rank(record: Record) -> tuple[float, float, str]:
    """Best area first; a definition without the levels of the area is sorted by EM at p = 0.5."""
    scores = record["scores"]
    area, half = (scores[name]["mean"] for name in ("area", "em"))
    return -(area or 0.0), -(half or 0.0), record["agent"]


def _definition(definition: Definition, records: Sequence[Record]) -> Iterator[str]:
    """The tables of a definition."""
    first = records[0]
    area = ["area"] if first["scores"]["area"]["mean"] is not None else []
    yield f"## {definition.name}"
    yield ""
    yield (
        f"Definition `{definition.hash}`: {first['questions']} questions of {markdown_text(definition.dataset)}, "
        f"{len(definition.noise_kind)} kinds of noise at p = {', '.join(f'{level:g}' for level in definition.noise)}, "
        f"at most {definition.max_turns} searches of {definition.top_k} documents."
    )
    if not area:
        yield "It has not all levels of the area, so agents are sorted by EM at p = 0.5."
    yield ""
    columns = [*area, "em_clean", "em", "truthfulness"]
    yield from _table(
        ["agent", *(_HEADINGS.get(name, name) for name in columns), "searches"],
        [
            [
                markdown_text(record["agent"]),
                *(_figure(record["scores"][name]) for name in columns),
                _count(record["scores"]["searches"]),
            ]
            for record in records
        ],
    )
    yield from _table(
        ["agent", "what it is", "tokens", "seconds", "version"],
        [
            [
                markdown_text(record["agent"]),
                markdown_text(record.get("note", "")),
                _tokens(record),
                _digits(record["without_noise"]["seconds"] / record["without_noise"]["episodes"], 3),
                markdown_text(record["versions"]["zerosearch-env"]),
            ]
            for record in records
        ],
    )
    yield "Exact match at p = 0.5 by kind of noise:"
    yield ""
    yield from _table(
        ["agent", *definition.noise_kind],
        [
            [
                markdown_text(record["agent"]),
                *(_digits(100 * record["kinds"][kind]["em"]["mean"], 1) for kind in definition.noise_kind),
            ]
            for record in records
        ],
    )
    columns = [*area, "em", "misled", "abstained", "hallucinated", "truthfulness"]
    for record in records:
        title = html.escape(" ".join(f"{record['agent']}, {definition.name}: all figures by kind".split()))
        yield f"<details><summary>{title}</summary>"
        yield ""
        yield (
            f"Record `{record['file']}`, agent `{_identity(record['identity'])}`, data `{_identity(record['data'])}`, "
            f"{record['episodes']:,} episodes."
        )
        yield ""
        yield from _table(
            ["kind of noise", *(_HEADINGS.get(name, name) for name in columns), "searches"],
            [
                [kind, *(_figure(figures[name]) for name in columns), _count(figures["searches"])]
                for kind, figures in record["kinds"].items()
            ],
        )
        yield "</details>"
        yield ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _figure(interval: Mapping[str, Any]) -> str:
    """A share with its interval, in percent."""
    mean, low, high = (_digits(100 * interval[name], 1) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _count(interval: Mapping[str, Any]) -> str:
    return _digits(interval["mean"], 2)


def _digits(value: float, digits: int) -> str:
    """A number with so many digits after the point, and never -0.0."""
    return f"{math.floor(value * 10**digits + 0.5) / 10**digits + 0.0:.{digits}f}"


def _tokens(record: Record) -> str:
    """Tokens that the agent's model wrote per episode without noise; empty if none are counted."""
    clean = record["without_noise"]
    written = clean["spent"].get("tokens_written", 0)
    return _digits(written / clean["episodes"], 0) if written else ""


def _identity(values: Mapping[str, str]) -> str:
    """Eight digits for the identity of an agent or of data; the record has the whole."""
    return text_hash(repr(sorted(values.items())))[:8]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ZeroSearchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
