"""The training objective: advantages, losses and KL as pure functions."""
