"""The simulated engine: a language model writes the documents."""
