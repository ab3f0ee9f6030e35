"""What a dataset can be given as: a name, a path, several of these with weights, or rows in memory."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..checks import check_number, is_number
from ..errors import ConfigError, unknown_name
from ..randomness import mix
from ..types import Dataset, JsonObject, Question
from .files.find import find_files, looks_like_file, stem
from .files.readers import with_distinct_ids
from .files.rows import NumberedRow, RowError

DatasetSource: TypeAlias = (
    str
    | os.PathLike[str]
    | Dataset
    | Mapping[str, Any]
    | Iterable[Question]
    | Iterable[JsonObject]
    | Iterable[str]
    | Iterable["NamedSource"]
)
"""Whatever `load_dataset` accepts; pandas, polars, pyarrow and `datasets` objects count as iterables of rows."""

_ROUNDING = 1e-9
"""Makes up for the rounding of floating-point numbers when a share is a whole number."""


@dataclass(frozen=True)
class NamedSource:
    """A dataset given by its name or path, as part of a mixture or alone."""

    name: str
    weight: float | None = None
    """Its share of a mixture, relative to the others; None: all its questions."""

    @property
    def is_file(self) -> bool:
        """Whether it is a file or folder, not the world or a name on the hub."""
        return self.name != "world" and looks_like_file(self.name)

    @property
    def is_misspelt(self) -> bool:
        """Whether it is almost "world", and neither a file nor a name on the hub."""
        is_hub_name = "/" in self.name or ":" in self.name
        near = difflib.get_close_matches(self.name.lower(), ["world"], cutoff=0.6)
        return bool(near) and self.name != "world" and not is_hub_name and not self.is_file

    def files(self, split: str) -> list[Path]:
        """The files with its questions; empty for the world and the hub.

        Raises:
            DataError: a file is missing.
        """
        return find_files(Path(self.name).expanduser(), split) if self.is_file else []

    def title(self, split: str) -> str:
        """The name of its dataset: the stem of a file, the name of a folder, or the name on the hub."""
        if not self.is_file:
            return self.name
        path = Path(self.name).expanduser()
        if not path.is_dir():
            return stem(path)
        path = path.resolve()
        # The hub's cache: datasets--OWNER--NAME/snapshots/REVISION
        is_snapshot = path.parent.name == "snapshots"
        return path.parent.parent.name.removeprefix("datasets--").replace("--", "/") if is_snapshot else path.name


def named_sources(source: object) -> tuple[NamedSource, ...] | None:
    """The names in a description of a dataset; None if it is not given by name.

    Args:
        source: a name or path, `"A,B"` or `"A=2,B=1"` (with weights), a list of names, a mapping from names to weights,
            or what this function has returned.

    Raises:
        ConfigError: a name is empty, a weight is not a positive number, or only some of the names have one.
    """
    if isinstance(source, (str, os.PathLike)):
        name = str(os.fspath(source))
        is_one = "," not in name or Path(name).expanduser().exists()
        parts = [part.strip() for part in name.split(",") if part.strip()]
        sources = (NamedSource(name),) if is_one else tuple(map(_weighted, parts))
    elif isinstance(source, Mapping):
        if not source or not all(is_number(weight) for weight in source.values()):
            return None
        sources = tuple(NamedSource(str(name), float(weight)) for name, weight in source.items())
    elif (
        isinstance(source, Sequence) and source and all(isinstance(n, (str, os.PathLike, NamedSource)) for n in source)
    ):
        sources = tuple(n if isinstance(n, NamedSource) else NamedSource(os.fspath(n)) for n in source)
    else:
        return None
    for part in sources:
        if not part.name or part.is_misspelt:
            raise unknown_name("dataset", part.name, ["world"])
        if part.weight is not None:
            check_number(f"the weight of {part.name!r}", part.weight, above=0)
    if len({part.weight is None for part in sources}) > 1:
        raise ConfigError(f"give all datasets a weight, or none: {source!r}")
    if len({part.name for part in sources}) < len(sources):
        raise ConfigError(f"a dataset was given twice: {source!r}")
    return sources


def includes_world(source: object) -> bool:
    """Whether the built-in world is the dataset, or one of several that are named."""
    return any(part.name == "world" for part in named_sources(source) or ())


def _weighted(part: str) -> NamedSource:
    name, equals, weight = part.rpartition("=")
    if not equals or Path(part).expanduser().exists():
        return NamedSource(part)
    try:
        return NamedSource(name, float(weight))
    except ValueError:
        raise ConfigError(f"the weight of {name!r} must be a number, got {weight!r}") from None


def distinct_titles(sources: Sequence[NamedSource], split: str) -> list[str]:
    """A name for each dataset; files of the same name (`nq/test.jsonl`, `hotpotqa/test.jsonl`) are named after folders.

    Raises:
        ConfigError: two datasets have the same name nevertheless.
    """
    titles = [source.title(split) for source in sources]
    parents = [Path(s.name).expanduser().resolve().parent.name if s.is_file else "" for s in sources]
    both = [f"{parent}/{title}" if parent else title for parent, title in zip(parents, titles, strict=True)]
    for names in (titles, parents, both):
        if len(set(names)) == len(names) and all(names):
            return names
    raise ConfigError(f"several datasets have the same name: {', '.join(both)}; rename a file or a folder")


def mixture(datasets: Sequence[Dataset], weights: Sequence[float | None], *, limit: int | None) -> Dataset:
    """One dataset with the questions of several.

    With weights it holds as many questions as possible without repeating one: of each dataset a share in proportion to
    its weight, chosen at random but always the same. The order of the questions is that of the datasets.

    Args:
        datasets: at least one.
        weights: one per dataset; None: all its questions.
        limit: maximum number of questions in total, divided by the same proportions; None: no limit.
    """
    shares = [len(data.questions) if weight is None else weight for data, weight in zip(datasets, weights, strict=True)]
    scale = min(len(data.questions) / share for data, share in zip(datasets, shares, strict=True))
    if limit is not None:
        scale = min(scale, limit / sum(shares))
    exact = [scale * share for share in shares]
    counts = [int(number + _ROUNDING) for number in exact]
    # What rounding down has left goes to those that lost most.
    for k in sorted(range(len(counts)), key=lambda k: counts[k] - exact[k])[
        : int(sum(exact) + _ROUNDING) - sum(counts)
    ]:
        counts[k] += 1
    questions: list[Question] = []
    for data, count in zip(datasets, counts, strict=True):
        order = sorted(range(len(data.questions)), key=lambda index: mix(0, index))
        questions += [data.questions[index] for index in sorted(order[:count])]
    names = [data.name for data in datasets]
    passages = [passage for data in datasets for passage in data.passages or ()]
    return Dataset(
        ",".join(names),
        datasets[0].split,
        with_distinct_ids(questions),
        passages or None,
        sum(data.skipped_rows for data in datasets),
        {
            "questions": dict(zip(names, counts, strict=True)),
            "sources": {data.name: dict(data.metadata) for data in datasets},
        },
    )


def rows_in_memory(source: object) -> Iterator[NumberedRow]:
    """The rows of a list, of another iterable, or of a table of pandas, polars, pyarrow or `datasets`, from 0.

    Raises:
        ConfigError: the object holds no rows.
    """
    rows = source
    if hasattr(source, "to_pylist"):  # pyarrow
        rows = source.to_pylist()
    elif hasattr(source, "to_dicts"):  # polars
        rows = source.to_dicts()
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas
        rows = source.to_dict(orient="records")
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes, Mapping)):
        raise ConfigError(
            f"dataset must be a name, a path, a Dataset, or a list or table of questions, got {type(source).__name__}."
        )
    for index, row in enumerate(rows):
        is_row = isinstance(row, (Mapping, Question))
        content = row if is_row else RowError("", "a Question or a mapping with a question and answers", row)
        yield NumberedRow(f"dataset[{index}]", index, content)


# Any: rows in any of the forms that `load_dataset` takes
def one_split(source: Mapping[str, Any], split: str) -> Any:
    """The value of a split in a mapping from splits to rows, such as a `DatasetDict`.

    Raises:
        ConfigError: there is no such split.
    """
    if split not in source:
        raise unknown_name("split", split, map(str, source))
    return source[split]
