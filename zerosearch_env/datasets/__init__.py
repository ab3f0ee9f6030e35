"""Questions and passages: the built-in world, files of the usual formats, and the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..errors import DataError
from ..types import Dataset

if TYPE_CHECKING:
    from .world import WorldConfig

OnBadRow = Literal["raise", "skip"]


def load_dataset(
    name_or_path: str | Dataset,
    split: str = "train",
    *,
    on_bad_row: OnBadRow = "raise",
    limit: int | None = None,
    world: WorldConfig | None = None,
    format: str | None = None,
) -> Dataset:
    """Skeleton: being written."""
    if isinstance(name_or_path, Dataset):
        return name_or_path
    if name_or_path == "world":
        from .world import WorldConfig, make_world

        return make_world(world or WorldConfig(), split)
    raise DataError("the readers are being written")


__all__ = ["load_dataset"]
