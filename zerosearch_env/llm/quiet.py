"""Load Transformers models without progress bars, so that a search engine prints nothing on the user's screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import require


@contextmanager
def no_progress_bars(extra: str) -> Iterator[None]:
    """Disable progress bars inside the context, and re-enable them afterwards if they were enabled.

    Args:
        extra: the extra that installs transformers, named in the error if it is missing.
    """
    logging = require("transformers.utils.logging", extra)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
