"""Run a Transformers model in this process."""
