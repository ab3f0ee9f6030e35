"""The tiny simulation LLM that ships with the package."""
