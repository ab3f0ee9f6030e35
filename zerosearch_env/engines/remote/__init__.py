"""Remote engines: retrieval servers and web search."""
