"""Learning benchmarks: what a training run achieves."""
