"""Queries per CPU second of the corpus engine, compared with bm25s's batch search in the same run.

Two corpora: the built-in world with its questions, and a synthetic one of 60-word passages drawn from a Zipf(1)
vocabulary of 50,000 words with queries of 8 words of a passage. bm25s gets its queries as tokens and returns numbers;
the corpus engine gets strings and returns documents, so the ratios are conservative. Nothing is cached. Both
searches are exact: before anything is timed, their scores are compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.engines.corpus.passages import PassageIndex
from zerosearch_env.engines.corpus.tokens import words
from zerosearch_env.engines.ranking import SCALE
from zerosearch_env.errors import require
from zerosearch_env.randomness import mix
from zerosearch_env.types import Document, SearchRequest, full_text

from ..measure import Case, Timing, make_parser, measure, print_timings, write_record

TOP_K = 5
LIBRARY, USEFUL, NOISY, MIXED = (
    "bm25s retrieve",
    "corpus engine, useful",
    "corpus engine, noisy",
    "corpus engine, masks",
)


def zipf_corpus(
    passages: int, queries: int, *, words_per_passage: int = 60, vocabulary: int = 50_000, seed: int = 0
) -> tuple[list[Document], list[SearchRequest]]:
    """Make passages of words drawn with probability 1 / rank, and queries of 8 words of one passage each."""
    rng = np.random.default_rng(seed)
    names = np.array([f"w{i:x}" for i in range(vocabulary)])
    weights = 1 / np.arange(1, vocabulary + 1)
    drawn = rng.choice(vocabulary, size=(passages, words_per_passage), p=weights / weights.sum())
    documents = [Document("", " ".join(names[row]), str(i)) for i, row in enumerate(drawn)]
    texts = [" ".join(names[rng.choice(drawn[rng.integers(passages)], 8)]) for _ in range(queries)]
    # A gold answer occurs in about one of a hundred passages, like real answers.
    return documents, [_request(text, (f"w{1000 + i % 1000:x}",), i) for i, text in enumerate(texts)]


def world_corpus(passages: int, queries: int) -> tuple[list[Document], list[SearchRequest]]:
    """Make the world of that size, and one query per question: its text."""
    data = load_dataset("world", world=WorldConfig(passages=passages))
    requests = [_request(q.text, q.answers, i) for i, q in enumerate(data.questions[:queries])]
    return list(data.passages or ()), requests


def _request(query: str, answers: tuple[str, ...], number: int) -> SearchRequest:
    return SearchRequest(query, query, answers, noisy=False, top_k=TOP_K, seed=mix(number))


def bench_corpus(
    documents: Sequence[Document], requests: Sequence[SearchRequest], *, rounds: int, seconds: float
) -> dict[str, Timing]:
    """Time the searches over one corpus.

    Raises:
        RuntimeError: bm25s and the corpus engine do not find the same scores.
    """
    bm25s = require("bm25s")

    library = bm25s.BM25()
    library.index([words(full_text(document)) for document in documents], show_progress=False)
    tokens = [words(request.query) for request in requests]
    engine = CorpusEngine(PassageIndex(documents, cached_queries=0))

    def retrieve() -> Any:
        return library.retrieve(tokens, k=TOP_K, show_progress=False, n_threads=0)

    def search(noisy: bool | tuple[bool, ...]) -> Callable[[], int]:
        batch = [replace(request, noisy=noisy) for request in requests]
        return lambda: len(engine.search(batch))

    ours = np.array([[d.score or 0.0 for d in result.documents] for result in engine.search(requests)])
    gap = float(np.abs(ours - retrieve().scores).max())
    if gap > max(len(query) for query in tokens) / SCALE:
        raise RuntimeError(f"bm25s and the corpus engine disagree by {gap} on the score of a passage")
    cases = [
        Case(LIBRARY, lambda: len(retrieve().documents)),
        Case(USEFUL, search(False)),
        Case(NOISY, search(True)),
        Case(MIXED, search(tuple(slot % 2 == 0 for slot in range(TOP_K)))),
    ]
    return measure(cases, rounds=rounds, seconds=seconds)


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Return queries per CPU second relative to bm25s, by case."""
    return {name: round(timings[LIBRARY].median / timings[name].median, 2) for name in (USEFUL, NOISY, MIXED)}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("corpus-engine", __doc__, rounds=7, seconds=0.25)
    parser.add_argument("--world", type=int, default=6000, help="passages of the world (6000)")
    parser.add_argument("--passages", type=int, default=100_000, help="passages of the synthetic corpus (100000)")
    parser.add_argument("--queries", type=int, default=1000, help="queries per batch (1000)")
    arguments = parser.parse_args(argv)
    corpora = {
        f"world of {arguments.world:,} passages": world_corpus(arguments.world, arguments.queries),
        f"{arguments.passages:,} Zipf passages": zipf_corpus(arguments.passages, arguments.queries),
    }
    everything: dict[str, Timing] = {}
    compared: dict[str, dict[str, float]] = {}
    for name, (documents, requests) in corpora.items():
        timings = bench_corpus(documents, requests, rounds=arguments.rounds, seconds=arguments.seconds)
        compared[name] = ratios(timings)
        everything |= {f"{name}: {case}": timing for case, timing in timings.items()}
        print(f"\n{name}, batches of {len(requests)} queries, top {TOP_K}")
        print_timings(timings, "request")
        print("times bm25s: " + ", ".join(f"{case} {ratio:.2f}" for case, ratio in compared[name].items()))
    rates = {name: round(timing.per_second) for name, timing in everything.items()}
    print(json.dumps({"queries_per_cpu_second": rates, "times_bm25s": compared}))
    results = {"times_bm25s": compared, "queries_per_cpu_second": rates, "timings": everything}
    write_record(arguments.output, ["bm25s", "numpy"], **results)
    return 0
