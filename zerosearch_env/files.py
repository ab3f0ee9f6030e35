"""Text files to read; files and folders that survive a kill: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import ConfigError


def read_utf8(path: str | os.PathLike[str], what: str) -> str:
    """The text of a file that an option names.

    Args:
        path: the file.
        what: what it is, for the message, such as `"prompt_template file 'prompt.txt'"`.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{what} cannot be read as UTF-8: {cause}") from cause


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory (its file names), to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Flush a directory and all files in it to disk."""
    for file in directory.rglob("*"):
        if file.is_file():
            sync(file)
    sync(directory)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: yields a temporary one that is renamed to `path` at the end of the block.

    A write that fails or is killed leaves the previous file, or none, but never a partial one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _new(path)
    try:
        with new.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    os.replace(new, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 (see `replaced_file`)."""
    with replaced_file(path) as stream:
        stream.write(text.encode("utf-8"))


@contextlib.contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Write a directory atomically: yields a temporary one that is renamed to `target` at the end of the block.

    A save that is killed leaves the previous directory, or none, but never a partial one. `roll_back` undoes a save
    that was killed between its two renames.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    roll_back(target)
    new = _new(target)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        sync_tree(new)
    except BaseException:  # also Ctrl-C: a partial directory is useless, and it takes space on a full disk
        shutil.rmtree(new, ignore_errors=True)
        raise
    replace_directory(new, target)


def replace_directory(new: Path, target: Path) -> None:
    """Rename a finished, synced directory to `target`; an existing one is deleted only afterwards."""
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def roll_back(target: Path) -> None:
    """Undo a `replace_directory` that was killed between its two renames."""
    if not target.exists() and _old(target).is_dir():
        os.rename(_old(target), target)


def remove(path: Path) -> None:
    """Remove a file or directory, if it exists, and what a killed write of it has left."""
    for place in (path, _new(path), _old(path)):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _new(target: Path) -> Path:
    """Temporary name of a file or directory while it is written."""
    return target.with_name(f".{target.name}.new")


def _old(target: Path) -> Path:
    """Temporary name of a directory while another takes its place."""
    return target.with_name(f".{target.name}.old")
