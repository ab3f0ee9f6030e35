"""Rollouts: episodes become tokens, with a loss mask and log-probabilities."""
