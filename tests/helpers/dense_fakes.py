"""An encoder and a reranker without a network, and passages for them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.engines.corpus.tokens import words
from zerosearch_env.types import Document, SearchRequest

NAMES = ["Ada", "Bea", "Cora", "Dora", "Elsa", "Fay", "Gil", "Hal", "Ivo", "Jon"]
TOWNS = ["Arlon", "Brest", "Crewe", "Delft", "Essen"]
PASSAGES = [
    Document(
        f"{name} number {number}", f"{name} number {number} was born in {TOWNS[(i + number) % 5]}.", f"p{i}-{number}"
    )
    for i, name in enumerate(NAMES)
    for number in range(12)
]


class HashEncoder:
    """Every word adds or subtracts 1 at a place that its checksum names."""

    query_prompt = passage_prompt = ""

    def __init__(self, name: str = "hash", *, dimension: int = 64, salt: str = "") -> None:
        self.name, self.dimension, self.salt = name, dimension, salt
        self.seen: list[str] = []

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in words(text):
                code = zlib.crc32((self.salt + word).encode("utf-8", "replace"))
                row[code % self.dimension] += 1 if code & 4096 else -1
        return vectors

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> NDArray[np.float32]:
        return self.encode_queries(texts)


class LengthReranker:
    """Prefers short passages."""

    name = "length"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        self.asked += len(pairs)
        return np.asarray([-float(len(passage)) for _, passage in pairs])


def ask(
    query: str, *answers: str, top_k: int = 5, seed: int = 0, noisy: bool | tuple[bool, ...] = False
) -> SearchRequest:
    return SearchRequest(query, f"{query}?", answers or ("Nowhere",), noisy=noisy, top_k=top_k, seed=seed)
