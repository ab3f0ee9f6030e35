"""Loading a parquet file of questions, compared with the library `datasets`; and the same questions as JSON lines.

`datasets` converts the file to an arrow file in its cache at the first load, and maps that file at later ones. Both
sides make the row or the question when it is read.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig, make_world
from zerosearch_env.errors import require
from zerosearch_env.randomness import mix

from ...measure import Case, Timing, make_parser, measure, print_timings, write_record

_READ = 1000
"""Questions that are read, at random."""


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Rows with the questions of the world, numbered so that none is a copy."""
    questions = make_world(WorldConfig()).questions
    for number in range(count):
        question = questions[number % len(questions)]
        yield {"id": f"q{number}", "question": f"{question.text} ({number})", "answers": list(question.answers)}


def bench_datasets(folder: Path, count: int, *, rounds: int, seconds: float) -> dict[str, Timing]:
    """CPU time per row of loading `count` questions, and per question of reading some of them.

    Args:
        folder: for the files and the cache of `datasets`.
        count: number of questions.
        rounds: number of timed turns of each case.
        seconds: minimum CPU seconds of a turn.
    """
    arrow, parquet, library = require("pyarrow"), require("pyarrow.parquet"), require("datasets")
    library.disable_progress_bars()
    table, lines = str(folder / "q.parquet"), folder / "q.jsonl"
    parquet.write_table(arrow.Table.from_pylist(list(rows(count))), table)
    with lines.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))
    caches = itertools.count()

    def load_peer(cache: object) -> Any:
        return library.load_dataset(
            "parquet", data_files=table, split="train", cache_dir=str(folder / f"cache-{cache}")
        )

    chosen = [mix(0, number) % count for number in range(_READ)]
    ours, peers = load_dataset(table).questions, load_peer("again")
    return measure(
        [
            Case("parquet", lambda: len(load_dataset(table).questions)),
            Case("datasets, first load", lambda: len(load_peer(next(caches)))),
            Case("datasets, later loads", lambda: len(load_peer("again"))),
            Case("JSON lines", lambda: len(load_dataset(lines).questions)),
            Case("reading a question", lambda: len([ours[index] for index in chosen])),
            Case("datasets, reading a row", lambda: len([peers[index] for index in chosen])),
        ],
        rounds=rounds,
        seconds=seconds,
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("datasets", __doc__, rounds=3, seconds=0.0)
    parser.add_argument("--rows", type=int, default=1_000_000, help="number of questions (1000000)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        timings = bench_datasets(Path(folder), arguments.rows, rounds=arguments.rounds, seconds=arguments.seconds)
    print_timings(timings, "row")
    times = round(timings["parquet"].over(timings["datasets, first load"]), 2)
    print(json.dumps({"times_first_load_of_datasets": times, "target": 3}))
    libraries = ["pyarrow", "datasets"]
    write_record(arguments.output, libraries, rows=arguments.rows, times_first_load_of_datasets=times, timings=timings)
    return 0
