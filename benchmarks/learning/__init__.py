"""Learning: what a training run achieves."""
