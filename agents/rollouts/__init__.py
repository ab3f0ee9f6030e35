"""Rollouts: episodes as tokens, with a loss mask and log-probabilities."""
