"""Runs the Python blocks of pages that need an environment of their own; tests/house runs all others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run_page(page: str, block: int = 0) -> dict[str, Any]:
    """Run one Python block of a page under docs/ in the current folder; returns its names."""
    text = (DOCS / page).read_text("utf-8")
    found = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))[block]
    names: dict[str, Any] = {"__name__": "__main__"}
    line = text.count("\n", 0, found.start(1))
    exec(compile("\n" * line + found[1], str(DOCS / page), "exec"), names)
    return names
