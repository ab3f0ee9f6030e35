"""The embedded engine over a large corpus: its index and searches next to other libraries, and whole episodes."""
