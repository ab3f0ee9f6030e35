"""The HTTP client of language-model and retrieval servers: sessions, replicas, retries."""
