"""Training pairs for a simulation LLM: collect, label, extract."""
