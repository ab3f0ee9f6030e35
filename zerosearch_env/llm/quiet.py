"""Transformers without its progress bars: a search engine that loads a model draws nothing over somebody's screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import require


@contextmanager
def no_progress_bars(extra: str) -> Iterator[None]:
    """Switch them off, and back on where they were on.

    Args:
        extra: the extra that brings transformers here, for the message when it is not installed.
    """
    logging = require("transformers.utils.logging", extra)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
