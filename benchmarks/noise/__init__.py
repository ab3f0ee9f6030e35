"""Whether noise keeps its promise: no gold answer in a noisy document."""
