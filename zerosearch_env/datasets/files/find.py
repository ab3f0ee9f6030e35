"""Which files a path means: one file, the shards of a split in a folder, a snapshot from the hub, a saved dataset.

In a folder, the files of a split are, in this order: `{split}.jsonl` (or another ending) in the folder itself;
`{split}` and its shards (`{split}-00000-of-00002`) in any folder below; files with the split in their name
(`hotpot_dev_distractor.json`); files in a folder named after the split; shards without a name (`data-00000-of-00002`,
`part-0`). Files that differ in more than their numbers are not shards of the same dataset, and loading them together
has to be requested by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".arrow")
"""File name endings of data files."""
ZIPPED = (".jsonl", ".json", ".csv", ".tsv")
"""The endings that `.gz` may follow."""
ENDINGS = "`.jsonl`, `.json`, `.csv`, `.tsv` (all also `.gz`), `.parquet` or `.arrow`"
_DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files that the `datasets` library writes next to the data."""
_SHARD_TOTAL = re.compile(r"-\d{5}-of-(\d{5})")
_NO_NAME = re.compile(r"(?:data|part|shard|chunk)?[-_.]?0(?:-of-0)?")


def looks_like_file(name: str) -> bool:
    """Whether a name refers to a file or folder, even a misspelt one, not to a dataset on the hub."""
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")) or _suffix(path):
        return True
    # `questions.cvs`, where there is a file `questions.csv`
    return bool(path.suffix and path.parent.is_dir() and _similar(path, cutoff=0.8))


def find_files(path: Path, split: str) -> list[Path]:
    """The path itself if it is a file; in a folder, the files of a split (see the module docstring), in order.

    Raises:
        DataError: there is no such file, shards are missing, or several datasets fit. The message names files that are
            there.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path, split)
    if not path.parent.is_dir():
        raise DataError(f"{path} does not exist: there is no folder {path.parent}")
    near = _similar(path, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    raise DataError(f"{path} does not exist.{hint}")


def _similar(path: Path, *, cutoff: float) -> list[str]:
    """Names in the folder of a path that resemble its own, the nearest first."""
    return difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=3, cutoff=cutoff)


def _suffix(path: Path) -> str:
    """The ending of a data file without `.gz`, or ""."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    return suffix if suffix in (ZIPPED if path.name.endswith(".gz") else SUFFIXES) else ""


def stem(path: Path) -> str:
    """The name of a data file without its ending."""
    return path.name.removesuffix(".gz").removesuffix(_suffix(path))


def _in_folder(folder: Path, split: str) -> list[Path]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if _suffix(file)
        and file.name not in _DESCRIPTIONS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    word = re.compile(rf"(?<![^\W_]){re.escape(split)}(?![^\W_])", re.IGNORECASE)
    shard = re.compile(rf"{re.escape(split)}(?:[-_.]\d+(?:-of-\d+)?(?:-[0-9a-f]{{16}})?)?")
    tiers = (
        lambda file: file.parent == folder and stem(file) == split,
        lambda file: shard.fullmatch(stem(file)),
        lambda file: word.search(stem(file)),
        lambda file: split in file.relative_to(folder).parts[:-1],
        lambda file: _NO_NAME.fullmatch(_series(file)[1]),
    )
    for belongs in tiers:
        if chosen := [file for file in files if belongs(file)]:
            return _shards(folder, split, chosen)
    names = [str(file.relative_to(folder)) for file in files]
    raise DataError(
        f"the folder {folder} has no file for the split {split!r} (expected {split} with the ending {ENDINGS}, or "
        f"its shards); " + (f"it has: {_some(names)}" if names else "it has no data file at all")
    )


def _series(file: Path) -> tuple[Path, str]:
    """What shards of the same dataset have in common: the folder, and the name with its numbers replaced by 0."""
    return file.parent, re.sub(r"\d+", "0", _without_hash(file))


def _shards(folder: Path, split: str, files: Sequence[Path]) -> list[Path]:
    """The files of the only series among these, in one format.

    Raises:
        DataError: there are several series, or shards are missing.
    """
    if len({_series(file) for file in files}) > 1:
        names = [str(file.relative_to(folder)) for file in files]
        raise DataError(
            f"the folder {folder} has several datasets with the split {split!r}; give the path of one of them, or "
            f"several paths separated by commas. It has: {_some(names)}"
        )
    suffix = min((_suffix(file) for file in files), key=SUFFIXES.index)
    shards = sorted((file for file in files if _suffix(file) == suffix), key=_numbers)
    total = _SHARD_TOTAL.search(shards[0].name)
    if total is not None and len(shards) != int(total[1]):
        raise DataError(
            f"{shards[0].parent} has {len(shards)} of the {int(total[1])} shards of {split!r}; "
            f"the download may be incomplete"
        )
    return shards


def _numbers(file: Path) -> tuple[list[int], str]:
    """Sorts shards by their numbers, also where these are not padded with zeros."""
    return [int(number) for number in re.findall(r"\d+", _without_hash(file))], file.name


def _without_hash(file: Path) -> str:
    """The stem without the hash that old versions of the hub's library added."""
    return re.sub(r"-[0-9a-f]{16}$", "", stem(file))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
