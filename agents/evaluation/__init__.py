"""Evaluation of agents at fixed noise levels: results with confidence intervals, and tables."""
