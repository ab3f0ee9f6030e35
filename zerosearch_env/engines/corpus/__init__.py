"""The embedded engine: BM25 search over passages, or over the paragraphs that come with a question."""
