"""Indexes on disk, in a folder each: the passages, the manifest, and how a folder is built and opened."""
