"""A pretrained language model learns to search over real text."""
