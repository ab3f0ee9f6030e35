"""Where a dense index comes from: a folder that `zerosearch index build dense` wrote, or the two files of Search-R1.

Search-R1 publishes Wikipedia of 2018 as `e5_Flat.index`, vectors in a file of faiss, and `wiki-18.jsonl`, passages. Row
i of the index is the vector of line i. Both files are mapped as they are; only the offsets of the lines are computed,
and kept in the cache folder.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import ConfigError, DataError, require, sentence
from ...identity import file_hash, new_hash, text_hash
from ..indexes.cache import cached_index, show_progress
from ..indexes.folder import MANIFEST_FILE, read_manifest
from ..indexes.passage_store import PassageStore, write_offsets
from .build import passage_text
from .encoders import Encoder, fingerprint, probe, same_probe
from .index import DenseIndex, scaled
from .manifest import FAISS_FILE, DenseManifest

_E5 = "intfloat/e5-base-v2"
"""The encoder of Search-R1's index."""
_LEAST_COSINE = 0.9
"""Least cosine between a vector in the index and our embedding of its line. Half precision and another maximum length
change less; E5 gives two unrelated passages about 0.7."""
_SAMPLED = 1024
"""Number of vectors that identify an index that is too large to be read completely in each process."""


class IndexSource(Protocol):
    """An index on disk."""

    def stamp(self) -> tuple[object, ...]:
        """Changes when the files change."""
        ...

    def encoder(self) -> str:
        """Path or name of the encoder that the index was built with."""
        ...

    def open(self, *, ef_search: int = 128, nprobe: int | None = None) -> DenseIndex:
        """Map the files and check them; the arguments are those of `DenseIndex`.

        Raises:
            DataError: a file is missing or damaged.
            ConfigError: the files do not belong together.
            MissingExtraError: faiss is not installed.
        """
        ...

    def check_encoder(self, index: DenseIndex, encoder: Encoder) -> None:
        """Check that an encoder is the one that the index was built with.

        Raises:
            ConfigError: it is another one.
        """
        ...

    def identity(self, index: DenseIndex) -> dict[str, str]:
        """Names and hashes of the content (see `zerosearch_env.identity`)."""
        ...


def find_source(index: str | Path, corpus: str | Path | None) -> IndexSource:
    """The index in a folder or in Search-R1's files.

    Args:
        index: a folder of ours, a folder that holds Search-R1's files, or the index file.
        corpus: the corpus file, if `index` is an index file.

    Raises:
        ConfigError: the corpus is missing or compressed, or a folder holds several indexes or corpora.
    """
    place = Path(index).expanduser().resolve()
    if corpus is not None:
        return SearchR1Files(place, _unpacked(Path(corpus).expanduser().resolve()))
    if place.is_file():
        raise ConfigError(
            f"{place} holds vectors only: give its passages too, as in {{'kind': 'dense', 'index': '{place.name}', "
            "'corpus': 'wiki-18.jsonl'}"
        )
    indexes = [] if (place / MANIFEST_FILE).is_file() else sorted(place.glob("*.index"))
    if not indexes:
        return BuiltIndex(place)
    corpora = sorted(place.glob("*.jsonl")) or sorted(place.glob("*.jsonl.gz"))
    if len(indexes) != 1 or len(corpora) != 1:
        found = ", ".join(path.name for path in (*indexes, *corpora))
        raise ConfigError(
            f"expected one .index file and one .jsonl file in {place}, got {found}: name the files with index= and "
            "corpus="
        )
    return SearchR1Files(indexes[0], _unpacked(corpora[0]))


def _unpacked(corpus: Path) -> Path:
    if corpus.suffix == ".gz":
        raise ConfigError(f"{corpus} is compressed, and its lines are read in any order: unpack it with `gzip -d`")
    return corpus


@dataclass(frozen=True)
class BuiltIndex:
    """A folder that `build_index` wrote."""

    folder: Path

    def stamp(self) -> tuple[object, ...]:
        """Changes when the files change."""
        entries = self._manifest().files.items()
        return self.folder, *sorted((name, str(entry)) for name, entry in entries)

    def encoder(self) -> str:
        """Path or name of the encoder that the index was built with."""
        return self._manifest().encoder

    def open(self, *, ef_search: int = 128, nprobe: int | None = None) -> DenseIndex:
        """Map the files and check them; see `IndexSource`."""
        manifest, passages = self._manifest(), PassageStore(self.folder)
        vectors = _read_vectors(self.folder / FAISS_FILE, "Build the index again.")
        found = (vectors.ntotal, vectors.d, len(passages))
        if found != (manifest.passages, manifest.dimension, manifest.passages):
            raise DataError(
                f"{self.folder}: index.json promises {manifest.passages} passages with vectors of "
                f"{manifest.dimension} numbers; found {found[0]} vectors of {found[1]} numbers and {found[2]} "
                "passages. Build the index again."
            )
        return DenseIndex(manifest, vectors, passages, ef_search=ef_search, nprobe=nprobe)

    def check_encoder(self, index: DenseIndex, encoder: Encoder) -> None:
        """Compare embeddings of the probe sentences with those in the manifest; see `IndexSource`."""
        manifest, numbers = index.manifest, probe(encoder)
        if same_probe(numbers, np.asarray(manifest.probes, dtype=np.float64)):
            return
        changed = " (its files have changed since)" if encoder.name == manifest.encoder else ""
        raise ConfigError(
            f"the index {self.folder} was built with the encoder {manifest.encoder!r} (fingerprint "
            f"{manifest.encoder_fingerprint}), but {encoder.name!r} (fingerprint {fingerprint(numbers)}) is another "
            f"one{changed}. Pass the right encoder with encoder=, or build the index again with this one."
        )

    def identity(self, index: DenseIndex) -> dict[str, str]:
        """The manifest, which holds the hashes of the other files."""
        return {f"the index {self.folder.name}": file_hash(self.folder / MANIFEST_FILE)}

    def _manifest(self) -> DenseManifest:
        return read_manifest(self.folder, DenseManifest)


@dataclass(frozen=True)
class SearchR1Files:
    """An index file of faiss, and the corpus that it was built from by Search-R1 with an E5 encoder."""

    index: Path
    corpus: Path

    def stamp(self) -> tuple[object, ...]:
        """Changes when the files change."""
        for path in (self.index, self.corpus):
            if not path.is_file():
                raise DataError(f"there is no {path}")
        return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in (self.index, self.corpus))

    def encoder(self) -> str:
        """Path or name of the encoder that the index was built with."""
        return _E5

    def open(self, *, ef_search: int = 128, nprobe: int | None = None) -> DenseIndex:
        """Map the files and check them; see `IndexSource`."""
        faiss = require("faiss")
        self.stamp()
        vectors = _read_vectors(self.index, "Copy it again.")
        if not isinstance(vectors, faiss.IndexFlat) or vectors.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ConfigError(
                f"{self.index} is an {type(vectors).__name__}; expected an IndexFlatIP, such as Search-R1's "
                "e5_Flat.index. `zerosearch index build dense` makes approximate indexes."
            )
        passages = self._passages()
        if vectors.ntotal != len(passages):
            raise ConfigError(
                f"{self.index} has {vectors.ntotal} vectors and {self.corpus} has {len(passages)} lines; expected one "
                "vector per line, in the same order. Give the corpus that the index was built from."
            )
        manifest = DenseManifest(
            format=DenseManifest.FORMAT,
            kind="flat",
            passages=len(passages),
            libraries={},
            files={},
            dimension=vectors.d,
            metric="cosine",
            encoder=_E5,
            encoder_fingerprint="",
            probes=[],
            template='"{title}"\n{text}',
            query_prefix="query: ",
            passage_prefix="passage: ",
        )
        return DenseIndex(manifest, vectors, passages, ef_search=ef_search, nprobe=nprobe)

    def check_encoder(self, index: DenseIndex, encoder: Encoder) -> None:
        """Compare the embeddings of three lines with their vectors; see `IndexSource`."""
        manifest = index.manifest
        rows = sorted({0, len(index) // 2, len(index) - 1})
        texts = [passage_text(index.passages[i], manifest.template, manifest.passage_prefix) for i in rows]
        ours = scaled(encoder.encode_passages(texts, batch_size=len(texts)), manifest.normalize)
        theirs = index.vectors.reconstruct_batch(rows)
        if ours.shape != theirs.shape:
            raise ConfigError(
                f"the encoder {encoder.name!r} gives vectors of {ours.shape[1]} numbers, and those in {self.index} "
                f"have {theirs.shape[1]}. Pass the encoder that the index was built with, with encoder=."
            )
        cosines = (ours * theirs).sum(axis=1)
        if cosines.min() < _LEAST_COSINE:
            row = rows[int(cosines.argmin())]
            raise ConfigError(
                f"the vector of row {row + 1} in {self.index} and the embedding of line {row + 1} of {self.corpus} by "
                f"{encoder.name!r} have a cosine of {cosines.min():.2f}; expected at least {_LEAST_COSINE}. Pass the "
                "encoder that the index was built with (encoder=), and the corpus with its lines in the same order."
            )

    def identity(self, index: DenseIndex) -> dict[str, str]:
        """The corpus by its content, and the index by a sample of its vectors."""
        digest = new_hash()
        digest.update(repr(index.vectors.ntotal).encode())
        rows = np.unique(np.linspace(0, len(index) - 1, _SAMPLED).astype(np.int64))
        digest.update(index.vectors.reconstruct_batch(rows).tobytes())
        return {
            f"the index {self.index.name}": digest.hexdigest(),
            f"the corpus file {self.corpus.name}": file_hash(self.corpus),
        }

    def _passages(self) -> PassageStore:
        """The lines of the corpus; their offsets are computed once and kept in the cache folder."""

        def build(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            with show_progress(f"looking for the lines of {self.corpus}") as progress:
                write_offsets(folder, self.corpus, progress)

        key = text_hash(repr(self.stamp()[1:]))
        folder = cached_index(key, lambda folder: PassageStore(folder, self.corpus), build)
        if folder is not None:
            return PassageStore(folder, self.corpus)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            build(Path(temporary))
            return PassageStore(Path(temporary), self.corpus)  # what is mapped stays, even when the file is removed


# Any: faiss has no types
def _read_vectors(path: Path, remedy: str) -> Any:
    faiss = require("faiss")
    try:
        # Memory-mapped: processes share the pages, and a large index opens instantly.
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as cause:  # A damaged size field can request too much memory.
        reason = str(cause).rpartition("Error: ")[2]
        raise DataError(f"{path} cannot be read: {sentence(reason)} {remedy}") from cause
