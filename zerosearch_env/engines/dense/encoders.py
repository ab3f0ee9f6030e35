"""Encoders map texts to vectors; rerankers map pairs of texts to scores.

`Encoder` and `Reranker` are the protocols that the dense engine needs. `SentenceEncoder` and `CrossEncoderReranker`
implement them with sentence-transformers, which is imported when the first of them is built.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError, require, sentence
from ...llm.backend import hub_commit
from ...llm.local.devices import check_device
from ...llm.quiet import no_progress_bars
from .steady import Fillers, steady_batches

Vectors = NDArray[np.float32]

PROBES = (
    "Who designed the bridge across the northern strait?",
    "The lighthouse keeper's daughter became a mathematician.",
    "1907",
    "Eine kurze Zeile in einer anderen Sprache.",
)
"""Sentences whose embeddings identify an encoder."""
_PROBE_NUMBERS = 32
_PROBE_TOLERANCE = 0.01
"""Allowed difference between two probes, relative to the largest value. Half precision causes a tenth of it."""


class Encoder(Protocol):
    """Maps texts to vectors."""

    name: str
    """Path or name; stored in an index and shown in errors."""
    query_prompt: str
    """Default prefix of a query."""
    passage_prompt: str
    """Default prefix of a passage."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors, shape (texts, dimension). Row i depends on text i alone, bit for bit."""
        ...

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> Vectors:
        """Vectors, shape (texts, dimension), computed as fast as possible."""
        ...


class Reranker(Protocol):
    """Scores how well passages answer a query."""

    name: str

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """One score per (query, passage) pair, shape (pairs,); higher is better.

        A score depends on its pair alone: equal pairs get equal scores in every batch.
        """
        ...


class SentenceEncoder:
    """An encoder from sentence-transformers.

    Args:
        name: a folder with a model, or a name on the hub.
        device: `"cpu"`, `"cuda"`, ...; None lets sentence-transformers choose.
        query_rows: number of rows in a batch of queries. All batches have this size (short ones are filled up), so
            that a query's vector does not depend on the other queries; 1 encodes queries one by one.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ConfigError: the model does not exist, or `query_rows` is below 1.
    """

    def __init__(self, name: str, *, device: str | None = None, query_rows: int = 8) -> None:
        check_whole_number("query_rows", query_rows)
        self.name = resolved(name)
        self._model = _load("SentenceTransformer", self.name, device)
        prompts = getattr(self._model, "prompts", None) or {}
        self.query_prompt = prompts.get("query", "")
        self.passage_prompt = next((prompts[key] for key in ("document", "passage", "corpus") if key in prompts), "")
        self._rows = query_rows
        # A fast tokenizer cannot be used by two threads at the same time.
        self._lock = threading.Lock()
        tokenizer = getattr(self._model, "tokenizer", None)
        # A model without a callable tokenizer (static embeddings) does not pad.
        self._tokenizer = tokenizer if callable(tokenizer) else None
        self._fillers = Fillers(lambda text: self._lengths([text])[0])

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors, shape (texts, dimension). Row i depends on text i alone.

        Raises:
            EngineError: the model failed, for example because it ran out of memory.
        """
        clean = [encodable(text) for text in texts]
        if not clean:
            return np.zeros((0, 0), np.float32)
        with self._lock:
            if self._rows == 1:
                return np.concatenate([self._encode([text], 1) for text in clean])
            found: list[Vectors] = [np.zeros(0, np.float32)] * len(clean)
            for filler, positions in steady_batches(self._lengths(clean), self._fillers, self._rows):
                batch = [clean[position] for position in positions]
                vectors = self._encode([*batch, *[filler] * (self._rows - len(batch))], self._rows)
                for position, vector in zip(positions, vectors, strict=False):
                    found[position] = vector
        return np.stack(found)

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> Vectors:
        """Vectors, shape (texts, dimension); texts of similar length share a batch.

        Raises:
            EngineError: the model failed, for example because it ran out of memory.
        """
        with self._lock:
            return self._encode([encodable(text) for text in texts], batch_size)

    def _encode(self, texts: list[str], batch_size: int) -> Vectors:
        try:
            # Pass an empty prompt: otherwise the model's default prompt would be added to ours.
            vectors = self._model.encode(
                texts, batch_size=batch_size, prompt="", show_progress_bar=False, convert_to_numpy=True
            )
        except RuntimeError as cause:
            raise EngineError(f"the encoder {self.name!r} failed on {len(texts)} texts: {cause}") from cause
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _lengths(self, texts: list[str]) -> list[int]:
        if self._tokenizer is None:
            return [0] * len(texts)
        limit = getattr(self._model, "max_seq_length", None)
        encoded = self._tokenizer(texts, truncation=limit is not None, max_length=limit, padding=False)
        return [len(ids) for ids in encoded["input_ids"]]


class CrossEncoderReranker:
    """A cross-encoder from sentence-transformers with one score per pair.

    Args:
        name: a folder with a model, or a name on the hub.
        device: `"cpu"`, `"cuda"`, ...; None lets sentence-transformers choose.
        rows: pairs per batch; every batch has this size, as in `SentenceEncoder`. Values below 2 count as 2.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ConfigError: the model does not exist, or it gives several scores per pair.
    """

    def __init__(self, name: str, *, device: str | None = None, rows: int = 16) -> None:
        self.name = resolved(name)
        self._model = _load("CrossEncoder", self.name, device)
        labels = self._model.config.num_labels
        if labels != 1:
            raise ConfigError(
                f"the reranker {self.name!r} gives {labels} scores per pair; expected a cross-encoder with one "
                "(num_labels=1)"
            )
        self._rows = max(rows, 2)
        self._lock = threading.Lock()
        self._fillers = Fillers(lambda text: self._lengths([(_FIRST, text)])[0])

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """One score per (query, passage) pair, shape (pairs,).

        Raises:
            EngineError: the model failed, for example because it ran out of memory.
        """
        clean = [(encodable(query), encodable(passage)) for query, passage in pairs]
        scores = np.zeros(len(clean), dtype=np.float64)
        with self._lock:
            lengths = self._lengths(clean) if clean else []
            for filler, positions in steady_batches(lengths, self._fillers, self._rows):
                batch = [clean[position] for position in positions]
                batch += [(_FIRST, filler)] * (self._rows - len(batch))
                try:
                    found = self._model.predict(batch, batch_size=self._rows, show_progress_bar=False)
                except RuntimeError as cause:
                    raise EngineError(f"the reranker {self.name!r} failed on {len(batch)} pairs: {cause}") from cause
                scores[positions] = np.asarray(found, dtype=np.float64)[: len(positions)]
        return scores

    def _lengths(self, pairs: list[tuple[str, str]]) -> list[int]:
        # sentence-transformers before version 6 calls it max_length.
        limit = self._model.max_seq_length if hasattr(self._model, "max_seq_length") else self._model.max_length
        first, second = [query for query, _ in pairs], [passage for _, passage in pairs]
        encoded = self._model.tokenizer(first, second, truncation=limit is not None, max_length=limit, padding=False)
        return [len(ids) for ids in encoded["input_ids"]]


_FIRST = "a"
"""The query of a filler pair."""


def probe(encoder: Encoder) -> NDArray[np.float64]:
    """Probe an encoder: embed `PROBES`, scale each vector to a largest absolute value of 1, and keep the first values.

    Returns:
        The rounded values, shape (probes, n).
    """
    vectors = encoder.encode_queries(PROBES).astype(np.float64)
    scale = np.abs(vectors).max(axis=1, keepdims=True)
    return (vectors / np.where(scale > 0, scale, 1.0))[:, :_PROBE_NUMBERS].round(5)


def same_probe(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two probes come from the same encoder, possibly on another device or in another precision."""
    return first.shape == second.shape and bool(np.abs(first - second).max() <= _PROBE_TOLERANCE)


def fingerprint(numbers: NDArray[np.float64]) -> str:
    """A short hash of a probe, for display only. Compare with `same_probe`: last digits differ between machines."""
    return hashlib.blake2b(numbers.round(1).astype("<f8").tobytes(), digest_size=6).hexdigest()


def resolved(name: str) -> str:
    """The absolute path of a folder; a name on the hub is returned unchanged."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def encodable(text: str) -> str:
    """The text with lone surrogates replaced, since no tokenizer accepts them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _load(kind: str, name: str, device: str | None) -> Any:
    """Load a model with sentence-transformers.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        ConfigError: the model does not exist, its files are damaged, or there is no such device.
    """
    library = require("sentence_transformers")
    if device is not None:
        check_device(device)
    try:
        with no_progress_bars():
            return getattr(library, kind)(name, device=device, revision=hub_commit(name))
    except (OSError, ValueError, KeyError, RuntimeError) as cause:
        reason = str(cause).partition("\n")[0]
        raise ConfigError(
            f"no {kind} could be loaded from {name!r}: {sentence(reason)} Expected a folder saved by "
            "sentence-transformers, or the name of a model on the hub "
            "(which needs a network connection or a filled cache)."
        ) from cause
