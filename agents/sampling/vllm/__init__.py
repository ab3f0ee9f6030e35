"""vLLM as the sampler, in this process or as a server, and the transfer of weights to it."""
