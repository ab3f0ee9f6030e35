"""The simulation LLM that ships with the package."""
