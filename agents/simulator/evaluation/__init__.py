"""Evaluation of a simulated engine: noise, leaks, style, attacks."""
