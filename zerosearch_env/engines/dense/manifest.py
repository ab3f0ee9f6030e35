"""The manifest of a dense index, and the checks made before an index is opened.

The folder of an index holds these files:

    index.json      the manifest: number of passages, encoder, options, and sizes and digests of the other files
    index.faiss     the vectors, in the format of faiss
    passages.jsonl  the passages
    offsets.npy     the byte offset of each passage in passages.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ...errors import DataError
from ...identity import installed_versions, read_hash
from ...types import JsonObject
from .passage_store import OFFSETS_FILE, PASSAGES_FILE

MANIFEST_FILE = "index.json"
FAISS_FILE = "index.faiss"
FILES = (PASSAGES_FILE, OFFSETS_FILE, FAISS_FILE)
FORMAT = 1
"""Version of the folder's format."""
KINDS = ("flat", "hnsw", "ivf")


@dataclass(frozen=True)
class Manifest:
    """The content of `index.json`."""

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
    """The encoder's embeddings of `encoders.PROBES`, as returned by `encoders.probe`."""
    template: str
    """Template for the text of a passage, with `{title}` and `{text}`."""
    query_prefix: str
    passage_prefix: str
    libraries: dict[str, str]
    """Versions of the libraries that built the index."""
    files: Mapping[str, JsonObject]
    """For each other file, by name: its size `bytes` and its digest `blake2b`."""

    @property
    def normalize(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self.metric == "cosine"

    def write(self, folder: Path) -> None:
        """Write `index.json`."""
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `index.json`, and check that the other files exist with the sizes listed in it.

    Raises:
        DataError: the index is missing, incomplete, in another format, or has damaged files.
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
        how = "there is an unfinished build next to it: repeat its `zerosearch index build` command to continue it"
    there = f"holds no {MANIFEST_FILE}" if folder.is_dir() else "does not exist"
    return f"{folder} is not a dense index: it {there}; {how}."


def building_folder(folder: Path) -> Path:
    """The folder in which an index is built before it is moved to `folder`."""
    return folder.parent / f".{folder.name}.building"


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare the content of every file with its digest in the manifest; reads all files completely.

    Raises:
        DataError: a file has changed since the index was built.
    """
    for name in FILES:
        if read_hash(folder / name) != manifest.files[name]["blake2b"]:
            raise DataError(f"{folder / name} has changed since the index was built. Copy or build the index again.")


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that an index depends on."""
    return installed_versions(
        ["zerosearch-env", "faiss-cpu", "faiss-gpu", "sentence-transformers", "transformers", "torch", "numpy"]
    )
