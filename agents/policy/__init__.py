"""Policies on disk and in memory: files, card and adapters."""
