"""The dense engine: FAISS search over the embeddings of a sentence encoder."""
