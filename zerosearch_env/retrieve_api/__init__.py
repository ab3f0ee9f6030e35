"""The /retrieve protocol, for the server and for the client: dialects, request bodies, results, encodings."""
