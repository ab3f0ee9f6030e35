"""Speed of the optimisation step, next to TRL."""
