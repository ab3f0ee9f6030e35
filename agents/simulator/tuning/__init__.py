"""Supervised tuning of a simulation LLM."""
