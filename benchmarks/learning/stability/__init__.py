"""Effect of known bugs of search-RL code on training."""
