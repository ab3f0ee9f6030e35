"""What kinds of noise do to a policy, and what training on them changes."""
