"""The built-in players of `--agent baseline:NAME`, to compare an agent with."""
