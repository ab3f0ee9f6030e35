"""Training pairs of a simulation LLM: collected, labelled, extracted."""
