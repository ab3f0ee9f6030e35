"""What results say: behaviour of agents, robustness curves, and comparisons of all pairs."""
