"""Processes: the workers of one training run, and the pool that plays evaluation episodes."""
