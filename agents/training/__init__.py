"""Training: the loop, one step of it, and what it keeps between steps."""
