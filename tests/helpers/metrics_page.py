"""The metrics that docs/metrics.md defines, where they are public: every metric of a run must be among them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
DOCUMENTED = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
"""Name -> formula."""
