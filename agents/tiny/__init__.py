"""The small base model: its tokenizer, initial weights and training text."""
