"""Datasets from the Hugging Face hub, loaded with the optional `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import DataError, require
from .rows import NumberedRow


def hub_rows(name: str, split: str) -> Iterator[NumberedRow]:
    """Rows of a dataset on the hub, numbered from 1.

    Args:
        name: `"owner/name"`, or `"owner/name:configuration"`.
        split: the split's name on the hub.

    Raises:
        MissingExtraError: the `datasets` library is not installed.
        DataError: the library cannot load the dataset (unknown dataset, configuration or split, no network, ...).
    """
    library = require("datasets")
    path, _, configuration = name.partition(":")
    try:
        rows = library.load_dataset(path, configuration or None, split=split)
    except Exception as cause:  # the library and its dependencies raise many kinds of errors
        raise DataError(
            f"{name!r} is neither a built-in dataset nor a file, and loading its split {split!r} from the hub failed: "
            f"{type(cause).__name__}: {cause}"
        ) from cause
    for number, row in enumerate(rows, 1):
        yield NumberedRow(f"{name} ({split}), row {number}", number, row)
