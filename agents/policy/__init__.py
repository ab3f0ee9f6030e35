"""A policy on disk and in memory: its files, its card, its adapters."""
