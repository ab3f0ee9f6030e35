"""The corpus engine with ten thousand to a million passages, next to bm25s and Tantivy in the same run.

There is no free corpus of millions of passages at hand offline, so passages are recombined: sentences of real Wikipedia
passages, drawn at random until there are 100 words, under a real title. Frequencies of words are real; the vocabulary
is that of the few thousand real passages, so it does not grow with the corpus as it would in reality. Queries and
answers are HotpotQA questions.

For each size, in processes of their own: building (CPU time and peak memory; the index holds the passages), and opening
(time, memory, the first query). Then queries per CPU second on the opened indexes, in alternating rounds.
`peers.py` says what each library does; the ratios to the others are conservative, because only the corpus engine
returns documents. Nothing is cached. Our scores and those of bm25s are compared before anything is timed.

Tantivy is measured if it is installed (extra `tantivy`). A size that the record already holds, made with the same code,
libraries, machine and options, is not measured again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zerosearch_env import engines as engines_package
from zerosearch_env.engines.corpus.tokens import words
from zerosearch_env.engines.ranking import SCALE
from zerosearch_env.errors import EXTRAS, ConfigError, require
from zerosearch_env.identity import file_hashes, text_hash
from zerosearch_env.randomness import mix
from zerosearch_env.types import Question, SearchRequest

from ...measure import Case, Timing, add_real_texts, machine, make_parser, measure, memory_mb, write_record
from ..real_text import PASSAGES, WORDS, load_workload
from .peers import Bm25s, Library, Ours, Search, Tantivy, score_gap, shared_top

TOP_K = 5
SIZES = [10_000, 100_000, 1_000_000]
USEFUL, NOISY = "corpus engine, useful", "corpus engine, noisy"
LIBRARY, TANTIVY = "bm25s retrieve", "Tantivy search"
PEERS = ["bm25s", "tantivy", "numpy"]
WIKIPEDIA_18 = 21_015_324
"""Passages of the corpus of DPR and Search-R1."""


@dataclass(frozen=True)
class Built:
    """The cost of an index on disk."""

    cpu_s: float
    peak_mb: float
    """Largest memory of the process, imports included."""
    size_mb: float
    """Size of the folder, passages included."""


@dataclass(frozen=True)
class Opened:
    """The cost of opening an index in a new process."""

    imported_mb: float
    """Memory after the imports."""
    open_s: float
    opened_mb: float
    """Memory added by opening."""
    first_query_ms: float
    searched_mb: float
    """Memory added by opening and all queries."""
    own_mb: float
    """The part of it that is not mapped pages of files, which the system can take back."""


def recombined(data: Path, passages: int, *, seed: int = 0) -> Iterator[dict[str, str]]:
    """Rows of a corpus file with sentences of real passages.

    Args:
        data: the folder with the real passages.
        passages: number of rows.
        seed: of the draws.

    Raises:
        ConfigError: there are no real passages in the folder.
    """
    file = data / PASSAGES
    if not file.is_file():
        raise ConfigError(f"there is no {file}. Give the folder of the real texts with --data.")
    parts = [json.loads(line)["contents"].partition("\n") for line in file.read_text("utf-8").splitlines()]
    titles = [title.strip('"') for title, _, _ in parts]
    sentences = [sentence.split() for _, _, text in parts for sentence in text.split(". ")]
    draw = random.Random(seed)
    for number in range(passages):
        text: list[str] = []
        while len(text) < WORDS:
            text += draw.choice(sentences)
        yield {"id": str(number), "contents": f'"{draw.choice(titles)}"\n{" ".join(text[:WORDS])}'}


def build(library: Library, file: Path, folder: Path, memory: int) -> Built:
    """Build the index of a corpus file in this process."""
    began = time.process_time()
    library.build(file, folder, memory)
    spent = time.process_time() - began
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return Built(round(spent, 2), round(memory_mb("VmHWM"), 1), round(size, 1))


def open_and_search(library: Library, folder: Path, requests: Sequence[SearchRequest]) -> Opened:
    """Open an index in this process and search."""
    if library.name in EXTRAS:
        require(library.name)
    before, own = memory_mb(), memory_mb("RssAnon")
    began = time.perf_counter()
    search = library.open(folder, requests)
    opened = time.perf_counter()
    after = memory_mb()
    began_search = time.perf_counter()
    search(0, 1)
    first = time.perf_counter() - began_search
    search(1, len(requests))
    added = memory_mb() - before, memory_mb("RssAnon") - own
    numbers = (before, opened - began, after - before, first * 1e3, *added)
    return Opened(*(round(number, 3) for number in numbers))


def time_queries(
    folders: Mapping[Library, Path], requests: Sequence[SearchRequest], *, rounds: int, seconds: float
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Time searches on the indexes, in alternating rounds.

    Returns:
        The timings, and the share of our passages that Tantivy also returns.

    Raises:
        RuntimeError: bm25s and the corpus engine do not find the same scores.
    """
    count = len(requests)
    searches = {library.name: library.open(folder, requests) for library, folder in folders.items()}
    noisy = Ours().open(folders[Ours()], [replace(request, noisy=True) for request in requests])
    results = searches["ours"](0, count)
    gap = score_gap(results, searches["bm25s"](0, count).scores)
    if gap > max(len(words(request.query)) for request in requests) / SCALE:
        raise RuntimeError(f"bm25s and the corpus engine disagree by {gap} on the score of a passage")
    agreement = {
        library.name: round(shared_top(results, library.numbers(folder, requests)), 3)
        for library, folder in folders.items()
        if isinstance(library, Tantivy)
    }
    names = {USEFUL: searches["ours"], NOISY: noisy, LIBRARY: searches["bm25s"], TANTIVY: searches.get("tantivy")}
    cases = [Case(name, partial(_count, search, count)) for name, search in names.items() if search]
    return measure(cases, rounds=rounds, seconds=seconds), agreement


def _count(search: Search, count: int) -> int:
    search(0, count)
    return count


def bench_size(
    data: Path,
    work: Path,
    passages: int,
    questions: Sequence[Question],
    *,
    memory: int,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Everything about one size: the entry of the record."""
    file = work / "corpus.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in recombined(data, passages))
    requests = [
        SearchRequest(q.text, q.text, q.answers, noisy=False, top_k=TOP_K, seed=mix(number))
        for number, q in enumerate(questions)
    ]
    folders = {library: work / library.name for library in libraries()}
    built = {library.name: _apart(build, library, file, folder, memory) for library, folder in folders.items()}
    opened = {library.name: _apart(open_and_search, library, folder, requests) for library, folder in folders.items()}
    timings, agreement = time_queries(folders, requests, rounds=rounds, seconds=seconds)
    for folder in folders.values():
        shutil.rmtree(folder)
    useful = timings[USEFUL]
    return {
        "passages": passages,
        "memory_mb": memory,
        "built": built,
        "opened": opened,
        "queries_per_cpu_s": {name: round(timing.per_second, 1) for name, timing in timings.items()},
        "times_bm25s": round(timings[LIBRARY].over(useful), 2),
        "times_tantivy": round(timings[TANTIVY].over(useful), 2) if TANTIVY in timings else None,
        "noisy_over_useful": round(timings[NOISY].over(useful), 2),
        "index_cpu_over": {
            name: round(built["ours"].cpu_s / cost.cpu_s, 2) for name, cost in built.items() if name != "ours"
        },
        "share_of_our_passages_that_it_returns": agreement,
        "timings": timings,
    }


def libraries() -> list[Library]:
    """What is compared: Tantivy only if it is installed."""
    return [Ours(), Bm25s(), *([Tantivy()] if importlib.util.find_spec("tantivy") else [])]


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def made_with(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers of a size depend on, apart from the load: an entry with the same is not measured again."""
    engines = Path(engines_package.__file__ or "").parent
    files = [*sorted(engines.glob("corpus/*.py")), *sorted(engines.glob("indexes/*.py")), engines / "noise.py"]
    files += [engines.parent / "game" / "answers.py", Path(__file__), Path(__file__).with_name("peers.py")]
    options = {name: getattr(arguments, name) for name in ("queries", "memory", "rounds", "seconds")}
    where = {name: value for name, value in machine(PEERS).items() if name != "load_average"}
    return options | {"code": text_hash(repr(file_hashes(files)))} | where


def earlier_entries(output: Path, made: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The entries of an earlier record that were made with the same, by size."""
    try:
        sizes = json.loads(output.read_text("utf-8"))["sizes"]
        return {entry["passages"]: entry for entry in sizes if entry.get("made_with") == made}
    except (OSError, ValueError, KeyError):
        return {}


def extrapolated(entry: Mapping[str, Any]) -> dict[str, float]:
    """Wikipedia of 2018 from the largest size that was measured: CPU time, size and time of a query in proportion."""
    factor = WIKIPEDIA_18 / entry["passages"]
    built = entry["built"]["ours"]
    return {
        "passages": WIKIPEDIA_18,
        "factor": round(factor, 2),
        "index_cpu_s": round(built["cpu_s"] * factor),
        "size_gb": round(built["size_mb"] * factor / 1e3, 1),
        "queries_per_cpu_s": round(entry["queries_per_cpu_s"][USEFUL] / factor, 2),
    }


def print_extrapolated(entry: Mapping[str, Any]) -> None:
    """Print the arithmetic of `extrapolated`."""
    guess, built = extrapolated(entry), entry["built"]["ours"]
    print(
        f"\nextrapolated in proportion to {WIKIPEDIA_18:,} passages (Wikipedia of 2018), "
        f"{WIKIPEDIA_18:,} / {entry['passages']:,} = {guess['factor']} times as many:\n"
        f"  index    {built['cpu_s']} CPU s * {guess['factor']} = {guess['index_cpu_s']} CPU s\n"
        f"  size     {built['size_mb']} MB * {guess['factor']} = {guess['size_gb']} GB\n"
        f"  queries  {entry['queries_per_cpu_s'][USEFUL]} / {guess['factor']} = {guess['queries_per_cpu_s']} per CPU s"
    )


def print_entry(entry: Mapping[str, Any]) -> None:
    """Print the numbers of a size."""
    print(f"\n{entry['passages']:,} recombined passages of {WORDS} words, top {TOP_K}; queries per CPU second:")
    for name, rate in entry["queries_per_cpu_s"].items():
        print(f"{name:>22}  {rate:10,.1f}")
    for what in ("built", "opened"):
        for name, cost in entry[what].items():
            print(f"{what:>8} {name:>8}  {', '.join(f'{key} {value}' for key, value in cost.items())}")
    for name in ("times_bm25s", "times_tantivy", "noisy_over_useful", "index_cpu_over"):
        print(f"{name} {entry[name]}")


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record after each size."""
    parser = make_parser("corpus-scale", __doc__, rounds=5, seconds=0.5)
    add_real_texts(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="passages (10000 100000 1000000)")
    parser.add_argument("--queries", type=int, default=256, help="queries per batch (256)")
    parser.add_argument("--memory", type=int, default=1024, help="megabytes for building our index (1024)")
    parser.add_argument("--work", type=Path, help="folder for the indexes (a temporary one)")
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("tantivy") is None:
        print('Tantivy is not installed, so it is not measured: pip install "zerosearch-env[tantivy]"', file=sys.stderr)
    questions = load_workload(arguments.data, questions=arguments.queries).questions
    made = made_with(arguments)
    entries = earlier_entries(arguments.output, made)
    for size in arguments.sizes:
        if size in entries:
            print(f"\n{size:,} passages: measured already, see {arguments.output}")
            continue
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            entry = bench_size(
                arguments.data,
                Path(work),
                size,
                questions,
                memory=arguments.memory,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
            )
        entry["load_average"] = machine([])["load_average"]
        entry["made_with"] = made
        entries[size] = json.loads(json.dumps(entry, default=asdict))
        print_entry(entries[size])
        measured = [entries[passages] for passages in sorted(entries)]
        write_record(
            arguments.output,
            PEERS,
            text="sentences of real Wikipedia passages, recombined; real questions",
            sizes=measured,
            wikipedia_18=extrapolated(measured[-1]),
        )
    print_extrapolated(entries[max(entries)])
    return 0
