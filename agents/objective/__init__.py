"""The objective: advantages, losses and KL as pure functions of numbers."""
