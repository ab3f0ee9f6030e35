"""Building a dense index: passages are written, embedded shard by shard, and indexed; then the folder is renamed.

Everything is put together in a hidden folder beside the output, which gets its name when it is whole. A build that was
interrupted goes on where it stopped, at most one shard before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, EngineError, require, unknown_name
from ...types import Document
from .encoders import PROBES, Encoder, fingerprint, probe, same_probe
from .index import scaled
from .manifest import (
    FAISS_FILE,
    FILES,
    FORMAT,
    KINDS,
    MANIFEST_FILE,
    Manifest,
    building_folder,
    digest,
    library_versions,
)
from .passage_store import PASSAGES_FILE, PassageStore, write_passages

Progress = Callable[[str, int, int], None]
"""(stage, `"embedding"` or `"indexing"`; passages done; passages in all)"""

_PLAN_FILE = "plan.json"
_VECTORS_FILE = "vectors.f32"
_BLOCK = 256
"""Passages between two reports of progress."""
_ADDED_AT_ONCE = 16_384
_HNSW_NEIGHBOURS = 32
_HNSW_CANDIDATES = 128
"""Candidates kept while an HNSW graph is built."""
_POINTS_PER_LIST = 64
"""Vectors an IVF list is trained on."""


@dataclass(frozen=True)
class BuildOptions:
    """How an index is built."""

    kind: str = "flat"
    """`"flat"` (exact), `"hnsw"` or `"ivf"` (approximate, for a million passages and more)."""
    normalize: bool = True
    """Scale vectors to length 1, so that scores are cosines; else scores are inner products."""
    template: str = "{title}\n{text}"
    """The text of a passage; without a title only `{text}` is taken."""
    query_prefix: str | None = None
    """Text before every query, such as "query: " for E5. None: what the encoder itself names, else nothing."""
    passage_prefix: str | None = None
    """Text before every passage, such as "passage: " for E5. None: what the encoder itself names, else nothing."""
    batch_size: int = 64
    """Passages that are encoded at once."""
    shard: int = 2048
    """Passages between two saves; an interruption loses one shard at most."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of index", self.kind, KINDS)
        for name in ("batch_size", "shard"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
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
    progress: Progress = lambda stage, done, total: None,
) -> Manifest:
    """Embed passages and write an index; goes on with an interrupted build of the same passages, encoder and options.

    Args:
        passages: what is indexed, at least one.
        output: the folder that will hold the index.
        encoder: embeds them.
        options: how.
        overwrite: replace an index that stands there.
        restart: throw an unfinished build with other passages, encoder or options away.
        progress: called after every few hundred passages.

    Returns:
        The manifest of the finished index.

    Raises:
        ConfigError: there are no passages; `output` is taken; an unfinished build was begun with something else.
        EngineError: the encoder failed, or gave numbers that are not finite.
        MissingExtraError: faiss is not installed.
    """
    faiss = require("faiss", "dense")
    output = output.expanduser().absolute()
    check_output(output, overwrite)
    work = building_folder(output)
    work.mkdir(parents=True, exist_ok=True)
    count = write_passages(work, passages)
    if not count:
        shutil.rmtree(work)
        raise ConfigError("there are no passages to index")
    prefixes = (
        encoder.query_prompt if options.query_prefix is None else options.query_prefix,
        encoder.passage_prompt if options.passage_prefix is None else options.passage_prefix,
    )
    dimension = encoder.encode_queries(PROBES[:1]).shape[1]
    _claim(work, _plan(work, encoder, options, prefixes), restart)
    vectors = _embed(work, count, dimension, encoder, options, prefixes[1], progress)
    index = _index(faiss, vectors, options, progress)
    faiss.write_index(index, str(work / FAISS_FILE))
    numbers = probe(encoder)
    files = {name: {"bytes": (work / name).stat().st_size, "blake2b": digest(work / name)} for name in FILES}
    manifest = Manifest(
        FORMAT,
        options.kind,
        count,
        dimension,
        "cosine" if options.normalize else "inner_product",
        encoder.name,
        fingerprint(numbers),
        numbers.tolist(),
        options.template,
        *prefixes,
        library_versions(),
        files,
    )
    del vectors
    manifest.write(work)
    for name in (_VECTORS_FILE, _PLAN_FILE):
        (work / name).unlink()
    for name in (*FILES, MANIFEST_FILE):
        _sync(work / name)
    _move(work, output)
    return manifest


def passage_text(passage: Document, template: str, prefix: str) -> str:
    """What is embedded for a passage."""
    if not passage.title:
        return prefix + passage.text
    # not str.format: braces in passages are text
    head, _, tail = template.partition("{text}")
    return prefix + head.replace("{title}", passage.title) + passage.text + tail.replace("{title}", passage.title)


def check_output(output: Path, overwrite: bool) -> None:
    """Check that an index may be written to a folder.

    Raises:
        ConfigError: something else stands there, or an index and not `overwrite`.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST_FILE).is_file():
        raise ConfigError(f"{output} is there and is no dense index: name another folder for it")
    if not overwrite:
        raise ConfigError(f"{output} holds an index already: name another folder, or replace it with --overwrite")


def _plan(work: Path, encoder: Encoder, options: BuildOptions, prefixes: tuple[str, str]) -> dict[str, Any]:
    """What decides the vectors; the kind of index and the size of a batch do not."""
    decisive = {name: value for name, value in asdict(options).items() if name in ("normalize", "template", "shard")}
    return {
        "passages": digest(work / PASSAGES_FILE),
        "passage_prefix": prefixes[1],
        "encoder": encoder.name,
        "probes": probe(encoder).tolist(),
        **decisive,
    }


def _claim(work: Path, plan: dict[str, Any], restart: bool) -> None:
    """Take a folder for a plan: a new one, or one that an interrupted build with the same plan has left."""
    path = work / _PLAN_FILE
    try:
        before = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError:  # killed while it was written, before anything was embedded
        before = None
    if before is not None:
        old, new = np.asarray(before.pop("probes", ())), np.asarray(plan["probes"])
        different = [name for name in before if before[name] != plan.get(name)]
        if not same_probe(old, new) and "encoder" not in different:
            different.append("encoder")
        if different and not restart:
            raise ConfigError(
                f"an unfinished build in {work} was begun with other values of: {', '.join(different)}. Repeat its "
                "command to go on with it, or throw it away with --restart."
            )
        if not different:
            return
    (work / _VECTORS_FILE).unlink(missing_ok=True)
    path.write_text(json.dumps(plan), "utf-8")


def _embed(
    work: Path,
    count: int,
    dimension: int,
    encoder: Encoder,
    options: BuildOptions,
    prefix: str,
    progress: Progress,
) -> NDArray[np.float32]:
    """The vectors of all passages, mapped from the file that they are kept in; shape (count, dimension)."""
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
                        f"the encoder {encoder.name!r} gave no usable vectors for passages {first} to {last - 1}: "
                        f"expected finite numbers of shape ({len(texts)}, {dimension}), got shape {block.shape}"
                    )
                blocks.append(scaled(block, options.normalize))
                progress("embedding", last, count)
            # only whole shards reach the file: it can be cut anywhere and still ends in a known place
            file.write(np.concatenate(blocks).tobytes())
            file.flush()
            os.fsync(file.fileno())
    return np.memmap(path, dtype=np.float32, mode="r", shape=(count, dimension))


def _index(faiss: Any, vectors: NDArray[np.float32], options: BuildOptions, progress: Progress) -> Any:
    count, dimension = vectors.shape
    inner = faiss.METRIC_INNER_PRODUCT
    if options.kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, _HNSW_NEIGHBOURS, inner)
        index.hnsw.efConstruction = _HNSW_CANDIDATES
    elif options.kind == "ivf":
        lists = max(1, min(4 * isqrt(count), count // 39))  # faiss's own advice: 39 points a list or more
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, inner)
        index.cp.min_points_per_centroid = 1
        sample = np.linspace(0, count - 1, min(count, _POINTS_PER_LIST * lists)).astype(np.int64)
        index.train(np.ascontiguousarray(vectors[np.unique(sample)]))
        # lets a vector be found by its position, for the exact scores
        index.set_direct_map_type(faiss.DirectMap.Array)
    else:
        index = faiss.IndexFlatIP(dimension)
    for start, stop in _spans(count):
        index.add(np.ascontiguousarray(vectors[start:stop]))
        progress("indexing", stop, count)
    return index


def _spans(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _ADDED_AT_ONCE):
        yield start, min(start + _ADDED_AT_ONCE, count)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _move(work: Path, output: Path) -> None:
    """Give a finished folder its name; an index that stood there goes only then."""
    if not output.exists():
        work.rename(output)
        return
    old = output.parent / f".{output.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    output.rename(old)
    work.rename(output)
    shutil.rmtree(old)
