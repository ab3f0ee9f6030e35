"""The embedded engine: BM25 over passages or over the paragraphs of a question."""
