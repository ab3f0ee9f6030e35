"""An index of dense vectors on disk: its manifest, the checks when it is opened, and exact scores on top of faiss.

A folder with

    index.json      the manifest: what was indexed, with which encoder, and the sizes and digests of the other files
    index.faiss     the vectors, as faiss stores them
    passages.jsonl  the passages, and offsets.npy, where each of them begins

faiss proposes passages, and their scores are computed again here: its own sums are rounded differently for different
numbers of queries. Scores are fixed-point integers in units of `bm25.SCALE`, ties are broken by the passage's position:
a ranking depends on the query's vector alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, require
from .bm25 import SCALE, Ranking
from .encoders import Encoder, Vectors, fingerprint, probe, same_probe
from .passage_store import OFFSETS_FILE, PASSAGES_FILE, PassageStore

MANIFEST_FILE = "index.json"
FAISS_FILE = "index.faiss"
FILES = (PASSAGES_FILE, OFFSETS_FILE, FAISS_FILE)
FORMAT = 1
"""Version of the folder's format."""
KINDS = ("flat", "hnsw", "ivf")
_SCAN = 8192
"""Vectors that are scored at once when all of them are."""
_SPARE = 16
"""Passages that faiss is asked for beyond those wanted, so that near ties at the cut are decided by exact scores."""
_DEEPEST = 2048
"""Passages that faiss is asked for at most: where even they end in a tie, every vector is scored."""


@dataclass(frozen=True)
class Manifest:
    """What stands in `index.json`."""

    format: int
    kind: str
    """`"flat"` (exact), `"hnsw"` or `"ivf"` (approximate)."""
    passages: int
    dimension: int
    metric: str
    """`"cosine"` (vectors have length 1) or `"inner_product"`."""
    encoder: str
    """Path or name of the encoder."""
    encoder_fingerprint: str
    probes: list[list[float]]
    """What the encoder makes of `encoders.PROBES`; see `encoders.probe`."""
    template: str
    """How a passage's text is put together, with `{title}` and `{text}`."""
    query_prefix: str
    passage_prefix: str
    libraries: dict[str, str]
    """Versions of the libraries that built the index."""
    files: dict[str, dict[str, Any]]
    """name -> `bytes` and `blake2b` of each other file."""

    @property
    def normalize(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self.metric == "cosine"

    def write(self, folder: Path) -> None:
        """Write `index.json`."""
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `index.json`, and that the other files are there with the sizes it names.

    Raises:
        DataError: there is no index, a half-written one, one of another format, or one with damaged files.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise DataError(_no_index(folder))
    try:
        row = json.loads(path.read_text("utf-8"))
        version = row["format"]
    except (ValueError, KeyError, TypeError) as cause:
        raise DataError(f"{path} is damaged ({cause!r}). Build the index again.") from cause
    if version != FORMAT:
        raise DataError(
            f"{path} has format {version!r}, and this version of the package reads format {FORMAT}. "
            "Build the index again, or use the version that built it."
        )
    wanted = {field.name for field in fields(Manifest)}
    if missing := wanted - row.keys():
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; it is damaged. Build the index again.")
    manifest = Manifest(**{name: row[name] for name in wanted})
    for name in FILES:
        expected = manifest.files.get(name, {}).get("bytes")
        got = (folder / name).stat().st_size if (folder / name).is_file() else None
        if got is None or got != expected:
            found = "is missing" if got is None else f"has {got} bytes instead of {expected}"
            raise DataError(f"{folder / name} {found}: the index is damaged. Copy or build it again.")
    return manifest


def _no_index(folder: Path) -> str:
    how = "`zerosearch index build` makes one"
    if building_folder(folder).is_dir():
        how = "an unfinished build stands beside it: the same `zerosearch index build` command goes on with it"
    there = f"holds no {MANIFEST_FILE}" if folder.is_dir() else "does not exist"
    return f"{folder} is no dense index: it {there}; {how}."


def building_folder(folder: Path) -> Path:
    """Where the index of a folder is put together before it is moved there."""
    return folder.parent / f".{folder.name}.building"


def digest(path: Path) -> str:
    """blake2b of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare the content of every file with the digest in the manifest; reads all of it.

    Raises:
        DataError: a file has changed since the index was built.
    """
    for name in FILES:
        if digest(folder / name) != manifest.files[name]["blake2b"]:
            raise DataError(f"{folder / name} has changed since the index was built. Copy or build the index again.")


def check_encoder(manifest: Manifest, encoder: Encoder, folder: Path) -> None:
    """Check that an encoder is the one an index was built with, by what it makes of the probe sentences.

    Raises:
        ConfigError: it is another one; both are named.
    """
    numbers = probe(encoder)
    if same_probe(numbers, np.asarray(manifest.probes, dtype=np.float64)):
        return
    changed = " (the same place: its files have changed since)" if encoder.name == manifest.encoder else ""
    raise ConfigError(
        f"the index {folder} was built with the encoder {manifest.encoder!r} (fingerprint "
        f"{manifest.encoder_fingerprint}), and {encoder.name!r} (fingerprint {fingerprint(numbers)}) is another "
        f"one{changed}. Give the option encoder= the right one, or build the index again with this one."
    )


def embed_queries(manifest: Manifest, encoder: Encoder, queries: list[str]) -> Vectors:
    """Vectors of queries as the index compares them, shape (queries, dimension)."""
    return scaled(encoder.encode_queries([manifest.query_prefix + query for query in queries]), manifest.normalize)


def scaled(vectors: Vectors, normalize: bool) -> Vectors:
    """The vectors, each divided by its length where `normalize`; a zero vector stays."""
    if not normalize:
        return vectors
    # one row's sum does not depend on the number of rows, unlike BLAS
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


class DenseIndex:
    """An index opened for searching.

    Args:
        folder: where `build_index` wrote it.
        ef_search: candidates that an HNSW search keeps; at least as many as are asked for.
        nprobe: lists that an IVF search reads; None: a sixteenth of all, at least 8.

    Raises:
        DataError: there is no index, or a damaged one.
        MissingExtraError: faiss is not installed.
    """

    def __init__(self, folder: Path, *, ef_search: int = 128, nprobe: int | None = None) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.passages = PassageStore(folder)
        self._faiss = require("faiss", "dense")
        try:
            # mapped: processes share the pages, and a large index opens at once
            self._index = self._faiss.read_index(str(folder / FAISS_FILE), self._faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as cause:  # a damaged size asks for more memory than there is
            reason = str(cause).rpartition("Error: ")[2]
            raise DataError(f"{folder / FAISS_FILE} cannot be read: {reason}. Build the index again.") from cause
        found = (self._index.ntotal, self._index.d, len(self.passages))
        if found != (self.manifest.passages, self.manifest.dimension, self.manifest.passages):
            raise DataError(
                f"{folder}: index.json promises {self.manifest.passages} passages with vectors of "
                f"{self.manifest.dimension} numbers; found {found[0]} vectors of {found[1]} numbers and {found[2]} "
                "passages. Build the index again."
            )
        self._ef_search = ef_search
        self._nprobe = nprobe

    def __len__(self) -> int:
        return self.manifest.passages

    def rank(self, queries: Vectors, depth: int) -> list[Ranking]:
        """The `depth` best passages for each query (all where there are fewer), best first.

        Args:
            queries: as `embed_queries` makes them, shape (queries, dimension).
            depth: how many passages, at least 1. An approximate index may find others at another depth.
        """
        depth = min(depth, len(self))
        wanted = min(depth + _SPARE, len(self))
        rankings = []
        for query, ids in zip(queries, self._propose(queries, wanted), strict=True):
            ranking, asked = self._scored(query, ids), wanted
            while not self._settled(ranking, depth) and asked < min(_DEEPEST, len(self)):
                asked = min(asked * 8, len(self))
                ranking = self._scored(query, self._propose(query[None], asked)[0])
            if not self._settled(ranking, depth):
                ranking = self.rank_all(query, depth)
            rankings.append(Ranking(ranking.ids[:depth], ranking.scores[:depth]))
        return rankings

    def rank_all(self, query: Vectors, depth: int) -> Ranking:
        """The exact `depth` best passages for one query, shape (dimension,): every vector is scored."""
        size = len(self)
        scores = np.empty(size, dtype=np.int64)
        for start in range(0, size, _SCAN):
            count = min(_SCAN, size - start)
            scores[start : start + count] = _scores(self._index.reconstruct_n(start, count), query)
        if depth < size:
            least = np.partition(scores, size - depth)[size - depth]
            ids = np.flatnonzero(scores >= least)
        else:
            ids = np.arange(size)
        best = ids[np.argsort(-scores[ids], kind="stable")][:depth]
        return Ranking(best.astype(np.int64), scores[best])

    def _propose(self, queries: Vectors, count: int) -> NDArray[np.int64]:
        """Positions that faiss finds, shape (queries, count), -1 where it finds too few."""
        faiss, index, kind = self._faiss, self._index, self.manifest.kind
        if kind == "hnsw":
            options = faiss.SearchParametersHNSW(efSearch=max(self._ef_search, count))
            return np.asarray(index.search(queries, count, params=options)[1])
        if kind == "ivf":
            nprobe = min(self._nprobe or max(8, index.nlist // 16), index.nlist)
            # one by one: faiss rounds the distances to the lists' centres differently for many queries at once
            options = faiss.SearchParametersIVF(nprobe=nprobe)
            found = [index.search(query[None], count, params=options)[1][0] for query in queries]
            return np.asarray(found).reshape(len(queries), count)
        return np.asarray(index.search(queries, count)[1])

    def _scored(self, query: Vectors, ids: NDArray[np.int64]) -> Ranking:
        ids = np.sort(ids[ids >= 0])
        scores = _scores(self._index.reconstruct_batch(ids), query) if len(ids) else np.zeros(0, np.int64)
        best = np.argsort(-scores, kind="stable")
        return Ranking(ids[best], scores[best])

    def _settled(self, ranking: Ranking, depth: int) -> bool:
        """Whether there are enough, and none that an exact search left out can belong to the first `depth`."""
        if self.manifest.kind != "flat" or len(ranking.ids) == len(self):
            return len(ranking.ids) >= depth
        cut = int(ranking.scores[-1])
        margin = 2 + (abs(cut) >> 18)  # faiss sums in single precision
        return int(ranking.scores[depth - 1]) > cut + margin


def _scores(vectors: Vectors, query: Vectors) -> NDArray[np.int64]:
    """Inner products in units of 1 / SCALE, shape (vectors,); the same for a vector in any company."""
    products = vectors.astype(np.float64) * query.astype(np.float64)
    return np.rint(products.sum(axis=1) * SCALE).astype(np.int64)


def library_versions() -> Mapping[str, str]:
    """Versions of the libraries that an index depends on, as far as they are installed."""
    import importlib.metadata

    found = {}
    for name in ("zerosearch-env", "faiss-cpu", "faiss-gpu", "sentence-transformers", "transformers", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
