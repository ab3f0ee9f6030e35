"""The size of the chunks in which the vocabulary head runs."""

from __future__ import annotations

CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 29}
"""Maximum bytes of one chunk of float32 logits by device; about three such buffers exist at a time."""
