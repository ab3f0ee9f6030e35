"""Players: whatever can play episodes to their end. Skeleton; filled next."""
from __future__ import annotations
