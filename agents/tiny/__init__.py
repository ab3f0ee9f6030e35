"""The small base model: its tokenizer, its initial weights, its training text."""
