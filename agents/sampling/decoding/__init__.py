"""Decoding in this process: the fused decoder, the fallbacks for other architectures, the paged cache."""
