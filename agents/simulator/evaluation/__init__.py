"""Evaluation of a simulated search engine: noise, leaks, style, attacks."""
