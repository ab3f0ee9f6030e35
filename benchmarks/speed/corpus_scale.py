"""The corpus engine from ten thousand passages to as many as you like, next to bm25s in the same run.

There is no free corpus of millions of passages at hand offline, so passages are recombined: sentences of real Wikipedia
passages, drawn at random until there are 100 words, under a real title. Frequencies of words are real; the vocabulary
is that of the few thousand real passages, so it does not grow with the corpus as it would in reality. Queries and
answers are HotpotQA questions.

For each size, in processes of their own: building (CPU time and peak memory), with `zerosearch index build bm25`'s
code, and with bm25s from the same file and the same tokens; and opening (time, memory, the first query). Then queries
per CPU second on the opened indexes, in alternating rounds: bm25s gets tokens and returns numbers, while the engine
gets strings and returns documents, so the ratios are conservative. Nothing is cached. Both searches are exact: their
scores are compared before anything is timed.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zerosearch_env.datasets.files.passages import iter_corpus
from zerosearch_env.engines import CorpusEngine, make_engine
from zerosearch_env.engines.corpus.build import build_folder
from zerosearch_env.engines.corpus.passages import PassageIndex, open_index
from zerosearch_env.engines.corpus.tokens import words
from zerosearch_env.engines.ranking import SCALE
from zerosearch_env.errors import ConfigError, require
from zerosearch_env.randomness import mix
from zerosearch_env.types import Question, SearchRequest

from ..measure import Case, Timing, make_parser, measure, print_timings, write_record
from .real_text import PASSAGES, WORDS, load_workload

TOP_K = 5
LIBRARY, USEFUL, NOISY = "bm25s retrieve", "corpus engine, useful", "corpus engine, noisy"
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
    """Memory added by opening and all queries; most of it are mapped pages, which the system can take back."""


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


def memory_mb(field: str = "VmRSS") -> float:
    """The memory of this process from Linux, in megabytes; `"VmHWM"` is its peak, `"VmRSS"` what it has now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def build_ours(file: Path, folder: Path, memory: int) -> Built:
    """Build the index of a corpus file in this process."""
    began = time.process_time()
    build_folder(iter_corpus(file), folder, memory=memory, overwrite=True)
    return _built(began, folder)


def build_library(file: Path, folder: Path) -> Built:
    """Build and save bm25s's index of a corpus file, with our tokens, in this process."""
    bm25s = require("bm25s")
    began = time.process_time()
    rows, tokens, vocabulary = [], [], dict[str, int]()
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows.append(row["contents"])
            title, _, text = row["contents"].partition("\n")
            tokens.append([vocabulary.setdefault(word, len(vocabulary)) for word in words(f"{title} {text}")])
    library = bm25s.BM25(method="lucene")
    library.index((tokens, vocabulary), show_progress=False)
    library.save(folder, corpus=rows, show_progress=False)
    return _built(began, folder)


def _built(began: float, folder: Path) -> Built:
    spent = time.process_time() - began
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return Built(round(spent, 2), round(memory_mb("VmHWM"), 1), round(size, 1))


def open_ours(folder: Path, requests: Sequence[SearchRequest]) -> Opened:
    """Open an index in this process and search."""

    def open_() -> Callable[[int, int], object]:
        engine = make_engine(f"corpus:{folder}")
        return lambda start, stop: engine.search(requests[start:stop])

    return _opened(open_, len(requests))


def open_library(folder: Path, requests: Sequence[SearchRequest]) -> Opened:
    """Open bm25s's index, mapped, in this process and search."""
    bm25s = require("bm25s")
    tokens = [words(request.query) for request in requests]

    def open_() -> Callable[[int, int], object]:
        library = bm25s.BM25.load(folder, mmap=True, load_corpus=True, show_progress=False)
        return lambda start, stop: library.retrieve(tokens[start:stop], k=TOP_K, show_progress=False, n_threads=0)

    return _opened(open_, len(requests))


def _opened(open_: Callable[[], Callable[[int, int], object]], requests: int) -> Opened:
    before = memory_mb()
    began = time.perf_counter()
    search = open_()
    opened = time.perf_counter()
    after = memory_mb()
    began_search = time.perf_counter()
    search(0, 1)
    first = time.perf_counter() - began_search
    search(1, requests)
    numbers = (before, opened - began, after - before, first * 1e3, memory_mb() - before)
    return Opened(*(round(number, 3) for number in numbers))


def time_queries(
    ours: Path, library: Path, requests: Sequence[SearchRequest], *, rounds: int, seconds: float
) -> dict[str, Timing]:
    """Time searches on both indexes, in alternating rounds.

    Raises:
        RuntimeError: bm25s and the corpus engine do not find the same scores.
    """
    bm25s = require("bm25s")
    peer = bm25s.BM25.load(library, mmap=True, show_progress=False)
    tokens = [words(request.query) for request in requests]
    index = open_index(ours)
    engine = CorpusEngine(PassageIndex(index.passages, cached_queries=0, index=index.bm25), paragraphs=False)
    noisy = [replace(request, noisy=True) for request in requests]

    def retrieve() -> Any:
        return peer.retrieve(tokens, k=TOP_K, show_progress=False, n_threads=0)

    scores = np.array([[d.score or 0.0 for d in result.documents] for result in engine.search(requests)])
    gap = float(np.abs(scores - retrieve().scores).max())
    if gap > max(len(query) for query in tokens) / SCALE:
        raise RuntimeError(f"bm25s and the corpus engine disagree by {gap} on the score of a passage")
    cases = [
        Case(LIBRARY, lambda: len(retrieve().documents)),
        Case(USEFUL, lambda: len(engine.search(requests))),
        Case(NOISY, lambda: len(engine.search(noisy))),
    ]
    return measure(cases, rounds=rounds, seconds=seconds)


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
    file, ours, library = work / "corpus.jsonl", work / "ours", work / "bm25s"
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in recombined(data, passages))
    requests = [
        SearchRequest(q.text, q.text, q.answers, noisy=False, top_k=TOP_K, seed=mix(number))
        for number, q in enumerate(questions)
    ]
    built = {"ours": _apart(build_ours, file, ours, memory), "bm25s": _apart(build_library, file, library)}
    opened = {"ours": _apart(open_ours, ours, requests), "bm25s": _apart(open_library, library, requests)}
    timings = time_queries(ours, library, requests, rounds=rounds, seconds=seconds)
    peer, useful, noisy = (timings[name].median for name in (LIBRARY, USEFUL, NOISY))
    for path in (ours, library):
        shutil.rmtree(path)
    return {
        "passages": passages,
        "memory_mb": memory,
        "built": built,
        "opened": opened,
        "queries_per_cpu_s": {name: round(timing.per_second, 1) for name, timing in timings.items()},
        "times_bm25s": round(peer / useful, 2),
        "noisy_over_useful": round(noisy / useful, 2),
        "index_cpu_over_bm25s": round(built["ours"].cpu_s / built["bm25s"].cpu_s, 2),
        "timings": timings,
    }


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def extrapolated(entry: dict[str, Any]) -> dict[str, float]:
    """Wikipedia of 2018 from the largest size that was measured: CPU time, size and time of a query in proportion."""
    factor = WIKIPEDIA_18 / entry["passages"]
    built: Built = entry["built"]["ours"]
    return {
        "passages": WIKIPEDIA_18,
        "factor": round(factor, 2),
        "index_cpu_s": round(built.cpu_s * factor),
        "size_gb": round(built.size_mb * factor / 1e3, 1),
        "queries_per_cpu_s": round(entry["queries_per_cpu_s"][USEFUL] / factor, 2),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("corpus-scale", __doc__, rounds=5, seconds=0.5)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {PASSAGES} and HotpotQA questions")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="passages (10000 100000)")
    parser.add_argument("--queries", type=int, default=256, help="queries per batch (256)")
    parser.add_argument("--memory", type=int, default=1024, help="megabytes for building our index (1024)")
    parser.add_argument("--work", type=Path, help="folder for the indexes (a temporary one)")
    arguments = parser.parse_args(argv)
    questions = load_workload(arguments.data, questions=arguments.queries).questions
    entries = []
    for size in arguments.sizes:
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
        entries.append(entry)
        print(f"\n{size:,} recombined passages of {WORDS} words, batches of {len(questions)} questions, top {TOP_K}")
        print_timings(entry["timings"], "request")
        for side in ("ours", "bm25s"):
            print(f"{side:>5}  {entry['built'][side]}\n       {entry['opened'][side]}")
        ratios = ("times_bm25s", "noisy_over_useful", "index_cpu_over_bm25s")
        print(", ".join(f"{name} {entry[name]}" for name in ratios))
    guess = extrapolated(max(entries, key=lambda entry: int(entry["passages"])))
    print(f"\nin proportion: {guess}")
    write_record(
        arguments.output,
        ["bm25s", "numpy"],
        text="sentences of real Wikipedia passages, recombined; real questions",
        sizes=entries,
        wikipedia_18=guess,
    )
    return 0
