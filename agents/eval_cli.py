"""Skeleton; filled next."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Not yet written."""
    raise NotImplementedError
