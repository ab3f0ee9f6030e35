"""Speed of the retrieval server, next to a plain one."""
