"""Skeleton; filled next."""

from __future__ import annotations
