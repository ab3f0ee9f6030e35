"""Agents of Stable-Baselines3 on the menu environment."""
