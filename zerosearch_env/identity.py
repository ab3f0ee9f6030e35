"""Identity by content: what an evaluation, a run or a cache was made with, as hashes of files and data.

A record maps the name of each thing to its hash, for example `{"the corpus file wiki.jsonl": "5f2c..."}`. A later
command computes the record again, and `changes` names what differs. A path alone would not show that a file has been
edited, or that another model has been copied to the same folder.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .types import Dataset, Document, Question

_PACKAGE = "zerosearch-env"
_HASH = re.compile(r"\b[0-9a-f]{32,}\b")
_SETTLED_S = 2.0
"""A file that was written less than this ago is not remembered: another write may leave the same time stamp."""

_HASHES: dict[tuple[object, ...], str] = {}


def file_hash(path: str | os.PathLike[str]) -> str:
    """The BLAKE2b hash of a file's bytes, in hexadecimal. A file is read once per process, until it changes.

    Raises:
        OSError: the file cannot be read.
    """
    path = Path(path)
    stat = path.stat()
    key = (str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key in _HASHES:
        return _HASHES[key]
    value = read_hash(path)
    if time.time() - stat.st_mtime > _SETTLED_S:
        _HASHES[key] = value
    return value


def read_hash(path: Path) -> str:
    """As `file_hash`, but the file is read in any case: for a check of what is on the disk now.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, new_hash).hexdigest()


def text_hash(text: str) -> str:
    """The BLAKE2b hash of a text, in hexadecimal."""
    digest = new_hash()
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def new_hash() -> hashlib.blake2b:
    """A new hash object of the kind that all records use, for content that comes in parts."""
    return hashlib.blake2b(digest_size=16)


def file_hashes(paths: Iterable[Path]) -> list[str]:
    """The hash of each file, in order; several files are read at the same time."""
    paths = list(paths)
    with ThreadPoolExecutor(min(4, max(1, len(paths)))) as pool:
        return list(pool.map(file_hash, paths))


def folder_hash(folder: str | os.PathLike[str]) -> str:
    """A hash of the files in a model's folder: their names and bytes, without subfolders, hidden files and notes.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(
        file for file in Path(folder).iterdir() if file.is_file() and file.suffix != ".md" and file.name[0] != "."
    )
    return _hash_of((file.name, value) for file, value in zip(files, file_hashes(files), strict=True))


def questions_hash(questions: Iterable[Question]) -> str:
    """A hash of everything in these questions that an episode, a search or a score depends on, in order."""
    return _hash_of(
        (
            question.id,
            question.text,
            question.answers,
            question.steps,
            (question.metadata or {}).get("hops"),
            question.paragraphs and [(p.title, p.text, p.supporting) for p in question.paragraphs],
        )
        for question in questions
    )


def prompts_hash(questions: Iterable[Question]) -> str:
    """A hash of the prompts in the rows of these questions, in order."""
    return _hash_of(tuple((message["role"], message["content"]) for message in q.prompt or ()) for q in questions)


def documents_hash(documents: Iterable[Document]) -> str:
    """A hash of titles, texts and sources of documents, in order."""
    return _hash_of((document.title, document.text, document.source) for document in documents)


def source_file(target: object) -> Path | None:
    """The file that defines a function, a class or an object's class; None if there is none."""
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target) if inspect.isroutine(target) else target
    definition = target if inspect.isroutine(target) or inspect.isclass(target) else type(target)
    try:
        file = inspect.getsourcefile(definition)
    except TypeError:
        return None
    return Path(file) if file and Path(file).is_file() else None


def source_hash(file: Path) -> str:
    """A hash of a source file and of the modules of its own that it imports, directly or not.

    Its own modules are those of the same package or, for a module outside any package, those in the same folder.
    """
    file = file.resolve()
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    name = file.relative_to(root).with_suffix("").parts
    name = name[:-1] if file.name == "__init__.py" else name
    package = name[0] if root != file.parent else ""
    sources: set[Path] = set()
    waiting = [name]
    while waiting:
        for source, module in _files_of(waiting.pop(), root, package):
            if source not in sources:
                sources.add(source)
                waiting += _imports(source, module)
    return _hash_of((str(source.relative_to(root)), file_hash(source)) for source in sorted(sources))


def dataset_identity(
    dataset: Dataset, questions: Sequence[Question] | None = None, *, prompts: bool = False
) -> dict[str, str]:
    """The record of this package and of a dataset's questions.

    Args:
        dataset: where the questions come from.
        questions: the questions that are used; None: all.
        prompts: whether the prompts in their rows are used.
    """
    source = dataset.metadata.get("source")
    is_file = source is not None and Path(str(source)).is_file()
    name = f"the question file {source}" if is_file else f"the dataset {dataset.name} ({dataset.split})"
    questions = dataset.questions if questions is None else questions
    record = package_identity() | {name: questions_hash(questions)}
    return record | ({f"the prompts of {name}": prompts_hash(questions)} if prompts else {})


def package_identity() -> dict[str, str]:
    """The record of this package: its version."""
    return {f"the version of {_PACKAGE}": package_version()}


@functools.cache
def package_version() -> str:
    """The version of this package."""
    return installed_versions([_PACKAGE]).get(_PACKAGE, "not installed")  # the folder may be on the path without it


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that are installed, by name."""
    import importlib.metadata  # here, because it takes a tenth of the time to the first step of an environment

    versions = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def changes(earlier: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two records, one clause each; names that only `earlier` has are ignored.

    Values without a hash in them, such as a version or a tag, are shown.
    """
    clauses = []
    for name, value in now.items():
        before = earlier.get(name)
        if before == value:
            continue
        if before is None:
            clauses.append(f"there is no record of {name}")
        elif _HASH.search(f"{before} {value}"):
            clauses.append(f"{name} has changed")
        else:
            clauses.append(f"{name} has changed from {before!r} to {value!r}")
    return clauses


def _files_of(name: tuple[str, ...], root: Path, package: str) -> list[tuple[Path, tuple[str, ...]]]:
    """The source files in `root` of a module and of the packages that it is in, each with its name.

    With `package` only those of this one.
    """
    if package and name[0] != package:
        return []
    files = []
    for length in range(1, len(name) + 1):
        place = root.joinpath(*name[:length])
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                files.append((file, name[:length]))
    return files


def _imports(source: Path, module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The full names that a module imports, in parts; a name imported from a module counts as a module in it."""
    folder = module if source.name == "__init__.py" else module[:-1]
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError):  # a file that is never executed
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, alias.name) for alias in node.names)


def _hash_of(rows: Iterable[tuple[object, ...]]) -> str:
    """A hash of tuples of plain values: `repr` is unambiguous and, for strings, fast."""
    digest = new_hash()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
