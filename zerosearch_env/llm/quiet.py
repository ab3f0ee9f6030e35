"""Load Transformers models without progress bars, so that a search engine prints nothing on the user's screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import require


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Disable progress bars inside the context, and re-enable them afterwards if they were enabled."""
    logging = require("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
