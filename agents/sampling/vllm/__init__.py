"""vLLM as the sampler, in this process or as a server, and how weights reach it."""
