"""What a report costs to write, and how long a reader waits for its page."""
