"""The folder of an index: its manifest, the checks made before it is opened, and the rules of building one.

Every index folder holds these files, and others with the data of its kind:

    index.json      the manifest: kind, number of passages, options, and sizes and digests of the other files
    passages.jsonl  the passages
    offsets.npy     the byte offset of each passage in passages.jsonl

A folder is built under a hidden name next to its place and renamed when it is complete, so a folder with its final name
is never half finished. `plan.json` in the unfinished folder says what is being built: a build of the same thing
continues, and a build of another thing is refused.
"""

from __future__ import annotations

import json
import operator
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...errors import ConfigError, DataError
from ...files import replace_directory, sync
from ...identity import installed_versions, read_hash
from ...types import Document, JsonObject
from .passage_store import OFFSETS_FILE, PASSAGES_FILE, write_passages

MANIFEST_FILE = "index.json"
PLAN_FILE = "plan.json"
BM25 = "bm25"
"""The kind of an index for the corpus engine; all other kinds are for the dense engine."""

OnProgress = Callable[[str, int, int | None], None]
"""Called as `progress(stage, done, total)`, for example `("indexing", 2048, 6000)`; the total is None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `index.json`; each kind of index adds its options."""

    NAME: ClassVar[str]
    """The kind of index in messages, such as `"dense"`."""
    FORMAT: ClassVar[int]
    """Version of the folder's format."""
    DATA_FILES: ClassVar[tuple[str, ...]]
    """The files besides the manifest and the passages."""

    format: int
    kind: str
    passages: int
    """Number of passages."""
    libraries: dict[str, str]
    """Versions of the libraries that built the index."""
    files: Mapping[str, JsonObject]
    """For each other file, by name: its size `bytes` and its digest `blake2b`."""

    def write(self, folder: Path) -> None:
        """Write `index.json`."""
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


M = TypeVar("M", bound=Manifest)


def read_manifest(folder: Path, kind: type[M]) -> M:
    """Read and check `index.json`, and check that the other files exist with the sizes listed in it.

    Args:
        folder: the folder of the index.
        kind: the manifest of the expected kind of index.

    Raises:
        DataError: there is no index, or it is of another kind, in another format, or damaged.
    """
    row, path = read_row(folder, kind.NAME), folder / MANIFEST_FILE
    if (row.get("kind") == BM25) != (kind.NAME == BM25):
        engine, what = ("corpus", BM25) if row.get("kind") == BM25 else ("dense", "dense")
        raise DataError(f'{folder} is {_index(what)}: open it with search_engine="{engine}:{folder}".')
    if row["format"] != kind.FORMAT:
        raise DataError(
            f"{path} has format {row['format']!r}, and this version of the package reads format {kind.FORMAT}. "
            "Build the index again, or use the version that built it."
        )
    wanted = {field.name for field in fields(kind)}
    if missing := wanted - row.keys():
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; it is damaged. Build the index again.")
    manifest = kind(**{name: row[name] for name in wanted})
    for name in all_files(kind):
        expected = manifest.files.get(name, {}).get("bytes")
        got = (folder / name).stat().st_size if (folder / name).is_file() else None
        if got is None or got != expected:
            found = "is missing" if got is None else f"has {got} bytes instead of {expected}"
            raise DataError(f"{folder / name} {found}: the index is damaged. Copy or build it again.")
    return manifest


def read_row(folder: Path, name: str = "") -> JsonObject:
    """The content of `index.json` as it is.

    Args:
        folder: the folder of the index.
        name: the expected kind of index, for the message.

    Raises:
        DataError: the file is missing, or it is not the manifest of an index.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        how = f"`zerosearch index build {name or 'bm25'}` makes one"
        if building_folder(folder).is_dir():
            how = "there is an unfinished build next to it: repeat its `zerosearch index build` command to continue it"
        there = f"holds no {MANIFEST_FILE}" if folder.is_dir() else "does not exist"
        raise DataError(f"{folder} is not {_index(name)}: it {there}; {how}.")
    try:
        row = json.loads(path.read_text("utf-8"))
        row["format"]
    except (ValueError, KeyError, TypeError) as cause:
        raise DataError(f"{path} is damaged ({cause!r}). Build the index again.") from cause
    return row  # type: ignore[no-any-return]


def _index(name: str) -> str:
    return {"": "an index", BM25: "a BM25 index"}.get(name, f"a {name} index")


def all_files(kind: type[Manifest] | Manifest) -> tuple[str, ...]:
    """The names of all files of an index besides the manifest."""
    return (PASSAGES_FILE, OFFSETS_FILE, *kind.DATA_FILES)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare the content of every file with its digest in the manifest; reads all files completely.

    Raises:
        DataError: a file has changed since the index was built.
    """
    for name in all_files(manifest):
        if read_hash(folder / name) != manifest.files[name]["blake2b"]:
            raise DataError(f"{folder / name} has changed since the index was built. Copy or build the index again.")


def building_folder(folder: Path) -> Path:
    """The folder in which an index is built before it is moved to `folder`."""
    return folder.parent / f".{folder.name}.building"


def check_output(output: Path, overwrite: bool) -> None:
    """Check that an index may be written to a folder.

    Raises:
        ConfigError: the folder holds other files, or it holds an index and `overwrite` is False.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST_FILE).is_file():
        raise ConfigError(f"{output} exists and is not an index: choose another output folder")
    if not overwrite:
        raise ConfigError(f"{output} already holds an index: choose another folder, or replace it with --overwrite")


# Any: the values of a plan are JSON
def claim(
    work: Path,
    plan: Mapping[str, Any],
    *,
    restart: bool,
    same: Mapping[str, Callable[[Any, Any], bool]] | None = None,
) -> bool:
    """Claim the unfinished folder for a plan.

    Args:
        work: the folder of the build.
        plan: what is built, as JSON values.
        restart: whether to discard what a build of another plan has left.
        same: for a value that may differ a little: how to compare the earlier value with the new one.

    Returns:
        Whether the folder holds the work of an interrupted build with the same plan.

    Raises:
        ConfigError: an unfinished build has another plan, and `restart` is False.
    """
    path = work / PLAN_FILE
    try:
        before = json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError:  # The build was killed while it wrote the plan, before it did anything.
        before = None
    if before is not None:
        equal: dict[str, Callable[[Any, Any], bool]] = {**dict.fromkeys((*before, *plan), operator.eq), **(same or {})}
        different = [name for name in equal if not equal[name](before.get(name), plan.get(name))]
        if not different:
            return True
        if not restart:
            raise ConfigError(
                f"an unfinished build in {work} was started with other values of: {', '.join(different)}. Repeat its "
                "command to continue it, or discard it with --restart."
            )
    path.write_text(json.dumps(plan), "utf-8")
    return False


def describe_files(folder: Path, kind: type[Manifest]) -> dict[str, JsonObject]:
    """Sizes and digests of the files of an index, for its manifest."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "blake2b": read_hash(folder / name)} for name in all_files(kind)
    }


def finish(work: Path, output: Path, manifest: Manifest) -> None:
    """Write the manifest and move the complete folder to its place; what only the build needed is gone already."""
    manifest.write(work)
    (work / PLAN_FILE).unlink(missing_ok=True)
    for name in (*all_files(manifest), MANIFEST_FILE):
        sync(work / name)
    replace_directory(work, output)


def library_versions(*others: str) -> dict[str, str]:
    """Versions of this package, of numpy and of other installed libraries that an index depends on."""
    return installed_versions(["zerosearch-env", *others, "numpy"])


def begin_build(
    output: Path, passages: Iterable[Document], overwrite: bool, progress: Callable[[str, int, int | None], None]
) -> tuple[Path, int]:
    """Write the passages of a new index into its building folder.

    Args:
        output: the folder for the index.
        passages: the passages, in order.
        overwrite: whether an existing index in `output` may be replaced.
        progress: as in `write_passages`.

    Returns:
        The building folder, and the number of passages.

    Raises:
        ConfigError: there are no passages, or `output` is not empty.
    """
    check_output(output, overwrite)
    work = building_folder(output)
    work.mkdir(parents=True, exist_ok=True)
    count = write_passages(work, passages, progress)
    if not count:
        shutil.rmtree(work)
        raise ConfigError("there are no passages to index")
    return work, count
