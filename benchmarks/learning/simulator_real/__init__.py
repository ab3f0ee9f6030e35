"""A pretrained language model tuned as the search engine on real snippets, and policies trained against it."""
