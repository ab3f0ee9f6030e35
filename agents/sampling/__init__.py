"""Sampling: token ids in, token ids out."""
