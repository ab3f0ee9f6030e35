"""Evaluation: players at fixed noise levels, results with intervals, tables."""
