"""What known faults of search-RL code do to a run."""
