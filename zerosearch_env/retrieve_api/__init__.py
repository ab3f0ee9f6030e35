"""The /retrieve protocol, for server and client: dialects, request bodies, results, encodings."""
