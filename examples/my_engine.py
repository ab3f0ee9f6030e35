"""Plug in your own search engine: a plain word-overlap search, with noise.

    python examples/my_engine.py

An engine answers a batch of requests. `request.noisy` says which documents are wanted: useful ones, or ones without a
gold answer. `check_engine` tests an engine against the rules that all engines follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym

from zerosearch_env import BatchedEngine, SearchRequest, SearchResult, check_engine, load_dataset, register_engine
from zerosearch_env.types import Dataset, Document


class OverlapEngine(BatchedEngine):
    """Ranks passages by the words they share with the query. `BatchedEngine` adds `asearch` and `close`."""

    def __init__(self, passages: Sequence[Document]) -> None:
        super().__init__()
        self._passages = [(passage, set(f"{passage.title} {passage.text}".lower().split())) for passage in passages]

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """One result per request, in order."""
        self._check_open()
        return [self._answer(request) for request in requests]

    def _answer(self, request: SearchRequest) -> SearchResult:
        words = set(request.query.lower().split())
        ranked = [passage for passage, own in sorted(self._passages, key=lambda entry: -len(words & entry[1]))]
        useful, rest = ranked[: request.top_k], ranked[request.top_k :]
        wrong = [p for p in rest if not any(a.lower() in f"{p.title} {p.text}".lower() for a in request.answers)]
        # `noise_mask` has one flag per document: noise is drawn for a whole search, or for each document.
        slots = enumerate(request.noise_mask)
        return SearchResult(tuple((wrong if noisy else useful)[slot] for slot, noisy in slots), engine="overlap")


def make_overlap_engine(argument: str, dataset: Dataset | None) -> OverlapEngine:
    """Called by `gym.make(search_engine="overlap")` with the environment's dataset."""
    return OverlapEngine(dataset.passages if dataset is not None and dataset.passages else [])


def main() -> None:
    """Check the engine, register it, and play with it."""
    check_engine(OverlapEngine(load_dataset("world", "train").passages or []))
    register_engine("overlap", make_overlap_engine)
    env = gym.make("ZeroSearch-v0", search_engine="overlap", noise_level=0.0)
    _, info = env.reset(seed=0)
    observation, *_ = env.step(f"<search>{info['question']}</search>")
    print(observation)
    env.close()


if __name__ == "__main__":
    main()
