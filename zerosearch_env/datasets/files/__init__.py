"""Questions and passages from files and from the hub."""
