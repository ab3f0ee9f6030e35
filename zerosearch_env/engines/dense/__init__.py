"""The dense engine: FAISS over a sentence encoder."""
