"""How commands read the rows of a dataset or a corpus."""

from __future__ import annotations

from dataclasses import dataclass

from ..types import Dataset
from . import load_dataset, parse_columns
from .files.columns import Columns
from .files.rows import OnBadRow
from .sources import includes_world
from .world.make import WorldConfig


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options of every command that reads questions or passages from files."""

    on_bad_row: OnBadRow = "raise"
    """What a row that cannot be read does: "raise" an error, or "skip" the row; the number of these is shown."""
    columns: tuple[str, ...] = ()
    """FIELD=COLUMN pairs for files with other names, for example question=Frage answers=Antwort; numbers from 0 for a
    table without a header (docs/data.md)."""

    @property
    def column_names(self) -> Columns | None:
        """Field -> column, in the form that `load_dataset` takes.

        Raises:
            ConfigError: a pair has no "=".
        """
        return parse_columns(self.columns) or None

    def load(self, dataset: str, split: str, *, world: WorldConfig, limit: int | None = None) -> Dataset:
        """Load a dataset; the options of the world apply only to the world.

        Raises:
            ConfigError: an option is invalid.
            DataError: a file is missing or broken.
        """
        return load_dataset(
            dataset,
            split,
            on_bad_row=self.on_bad_row,
            columns=self.column_names,
            limit=limit,
            world=world if includes_world(dataset) else None,
        )
