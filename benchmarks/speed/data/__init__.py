"""Speed of loading questions and of making the world."""
