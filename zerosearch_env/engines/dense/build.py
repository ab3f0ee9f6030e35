"""Builds a dense index: writes the passages, embeds them shard by shard, and indexes the vectors.

    passages.jsonl, offsets.npy  ->  vectors.f32  ->  index.faiss  ->  index.json
                                     (per shard)

The build happens in a hidden folder next to the output folder and is renamed to it when complete. An interrupted build
continues where it stopped; at most one shard is embedded again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError, require, unknown_name
from ...identity import read_hash
from ...types import Document
from ..indexes.folder import (
    OnProgress,
    begin_build,
    claim,
    describe_files,
    finish,
    library_versions,
)
from ..indexes.passage_store import PASSAGES_FILE, PassageStore
from .encoders import PROBES, Encoder, fingerprint, probe, same_probe
from .index import scaled
from .manifest import FAISS_FILE, KINDS, DenseManifest

_VECTORS_FILE = "vectors.f32"
_BLOCK = 256
"""Passages between two progress reports."""
_ADDED_AT_ONCE = 16_384
_HNSW_NEIGHBOURS = 32
_HNSW_CANDIDATES = 128
"""Candidates kept during the construction of an HNSW graph."""
_POINTS_PER_LIST = 64
"""Training vectors per IVF list."""


@dataclass(frozen=True)
class BuildOptions:
    """Options for building an index."""

    kind: str = "flat"
    """Kind of index: `"flat"` (exact), `"hnsw"` or `"ivf"` (approximate, for a million passages or more)."""
    normalize: bool = True
    """Scale vectors to length 1, so that scores are cosines; otherwise scores are inner products."""
    template: str = "{title}\n{text}"
    """Text that is embedded for a passage; for a passage without a title only `{text}` is used."""
    query_prefix: str | None = None
    """Prefix of every query, such as "query: " for E5. None means the encoder's own prompt, if it has one."""
    passage_prefix: str | None = None
    """Prefix of every passage, such as "passage: " for E5. None means the encoder's own prompt, if it has one."""
    batch_size: int = 64
    """Passages per encoder batch."""
    shard: int = 2048
    """Passages between two saves; an interruption loses at most one shard."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of index", self.kind, KINDS)
        for name in ("batch_size", "shard"):
            check_whole_number(name, getattr(self, name))
        if "{text}" not in self.template:
            raise ConfigError(f"template must contain {{text}}, got {self.template!r}")


def build_index(
    passages: Iterable[Document],
    output: Path,
    encoder: Encoder,
    options: BuildOptions = BuildOptions(),
    *,
    overwrite: bool = False,
    restart: bool = False,
    progress: OnProgress = lambda stage, done, total: None,
) -> DenseManifest:
    """Embed passages and write an index.

    If an earlier build with the same passages, encoder and options was interrupted, it is continued.

    Args:
        passages: the passages to index, at least one.
        output: the folder for the index.
        encoder: embeds the passages.
        options: how to build the index.
        overwrite: replace an existing index in `output`.
        restart: discard an unfinished build with other passages, another encoder or other options.
        progress: called after every few hundred passages.

    Returns:
        The manifest of the finished index.

    Raises:
        ConfigError: there are no passages; `output` is not empty; or an unfinished build has other inputs.
        EngineError: the encoder failed, or its vectors contain values that are not finite.
        MissingExtraError: faiss is not installed.
    """
    faiss = require("faiss")
    output = output.expanduser().absolute()
    work, count = begin_build(output, passages, overwrite, progress)
    prefixes = (
        encoder.query_prompt if options.query_prefix is None else options.query_prefix,
        encoder.passage_prompt if options.passage_prefix is None else options.passage_prefix,
    )
    dimension = encoder.encode_queries(PROBES[:1]).shape[1]
    if not claim(work, _plan(work, encoder, options, prefixes), restart=restart, same={"encoder": _same_encoder}):
        (work / _VECTORS_FILE).unlink(missing_ok=True)
    vectors = _embed(work, count, dimension, encoder, options, prefixes[1], progress)
    index = _index(faiss, vectors, options, progress)
    faiss.write_index(index, str(work / FAISS_FILE))
    numbers = probe(encoder)
    manifest = DenseManifest(
        format=DenseManifest.FORMAT,
        kind=options.kind,
        passages=count,
        libraries=library_versions("faiss-cpu", "faiss-gpu", "sentence-transformers", "transformers", "torch"),
        files=describe_files(work, DenseManifest),
        dimension=dimension,
        metric="cosine" if options.normalize else "inner_product",
        encoder=encoder.name,
        encoder_fingerprint=fingerprint(numbers),
        probes=numbers.tolist(),
        template=options.template,
        query_prefix=prefixes[0],
        passage_prefix=prefixes[1],
    )
    del vectors
    (work / _VECTORS_FILE).unlink()
    finish(work, output, manifest)
    return manifest


def passage_text(passage: Document, template: str, prefix: str) -> str:
    """The string that is embedded for a passage."""
    if not passage.title:
        return prefix + passage.text
    # Do not use str.format: passages may contain braces.
    head, _, tail = template.partition("{text}")
    return prefix + head.replace("{title}", passage.title) + passage.text + tail.replace("{title}", passage.title)


def _plan(work: Path, encoder: Encoder, options: BuildOptions, prefixes: tuple[str, str]) -> dict[str, Any]:
    """Everything that determines the vectors; the kind of index and the batch size do not."""
    decisive = {name: value for name, value in asdict(options).items() if name in ("normalize", "template", "shard")}
    return {
        "passages": read_hash(work / PASSAGES_FILE),
        "passage_prefix": prefixes[1],
        "encoder": {"name": encoder.name, "probes": probe(encoder).tolist()},
        **decisive,
    }


def _same_encoder(before: Any, now: Any) -> bool:
    if not isinstance(before, dict) or before.get("name") != now["name"]:
        return False
    return same_probe(np.asarray(before["probes"]), np.asarray(now["probes"]))


def _embed(
    work: Path,
    count: int,
    dimension: int,
    encoder: Encoder,
    options: BuildOptions,
    prefix: str,
    progress: OnProgress,
) -> NDArray[np.float32]:
    """Embed all passages that are not yet in the vector file, and map the file; shape (count, dimension)."""
    path, store = work / _VECTORS_FILE, PassageStore(work)
    path.touch()
    row = dimension * 4
    done = min(path.stat().st_size // row, count)
    if done < count:
        done -= done % options.shard
    with path.open("r+b") as file:
        file.truncate(done * row)
        file.seek(done * row)
        progress("embedding", done, count)
        for start in range(done, count, options.shard):
            stop = min(start + options.shard, count)
            blocks = []
            for first in range(start, stop, _BLOCK):
                last = min(first + _BLOCK, stop)
                texts = [passage_text(passage, options.template, prefix) for passage in store[first:last]]
                block = encoder.encode_passages(texts, batch_size=options.batch_size)
                if block.shape != (len(texts), dimension) or not np.isfinite(block).all():
                    raise EngineError(
                        f"the encoder {encoder.name!r} returned invalid vectors for passages {first} to {last - 1}: "
                        f"expected finite numbers of shape ({len(texts)}, {dimension}), got shape {block.shape}"
                    )
                blocks.append(scaled(block, options.normalize))
                progress("embedding", last, count)
            # Write whole shards only: after a crash the file is cut back to the last complete shard.
            file.write(np.concatenate(blocks).tobytes())
            file.flush()
            os.fsync(file.fileno())
    return np.memmap(path, dtype=np.float32, mode="r", shape=(count, dimension))


def _index(faiss: Any, vectors: NDArray[np.float32], options: BuildOptions, progress: OnProgress) -> Any:
    count, dimension = vectors.shape
    inner = faiss.METRIC_INNER_PRODUCT
    if options.kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, _HNSW_NEIGHBOURS, inner)
        index.hnsw.efConstruction = _HNSW_CANDIDATES
    elif options.kind == "ivf":
        lists = max(1, min(4 * isqrt(count), count // 39))  # FAISS recommends at least 39 points per list.
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, inner)
        index.cp.min_points_per_centroid = 1
        sample = np.linspace(0, count - 1, min(count, _POINTS_PER_LIST * lists)).astype(np.int64)
        index.train(np.ascontiguousarray(vectors[np.unique(sample)]))
        # Needed to look up vectors by position, for the exact scores.
        index.set_direct_map_type(faiss.DirectMap.Array)
    else:
        index = faiss.IndexFlatIP(dimension)
    for start in range(0, count, _ADDED_AT_ONCE):
        stop = min(start + _ADDED_AT_ONCE, count)
        index.add(np.ascontiguousarray(vectors[start:stop]))
        progress("indexing", stop, count)
    return index
