"""Decoding in this process: the fused decoder, the fallback for other architectures, the paged cache."""
