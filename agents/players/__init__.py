"""Players: everything that can play episodes (policies, third-party agents, baselines)."""
