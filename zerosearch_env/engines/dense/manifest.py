"""The folder of a dense index: its manifest, and the checks before it is opened.

A folder holds

    index.json      the manifest: what was indexed, with which encoder, and the sizes and digests of the other files
    index.faiss     the vectors, as faiss stores them
    passages.jsonl  the passages, and offsets.npy, where each of them begins
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import DataError
from .passage_store import OFFSETS_FILE, PASSAGES_FILE

MANIFEST_FILE = "index.json"
FAISS_FILE = "index.faiss"
FILES = (PASSAGES_FILE, OFFSETS_FILE, FAISS_FILE)
FORMAT = 1
"""Version of the folder's format."""
KINDS = ("flat", "hnsw", "ivf")


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


def library_versions() -> dict[str, str]:
    """Versions of the libraries that an index depends on, as far as they are installed."""
    found = {}
    for name in ("zerosearch-env", "faiss-cpu", "faiss-gpu", "sentence-transformers", "transformers", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
