"""Makes `dense_fakes` importable for the tests beside it."""
"""Makes `sim_fakes` importable for the tests beside it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
