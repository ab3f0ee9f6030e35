"""Supervised fine-tuning of a simulation LLM."""
