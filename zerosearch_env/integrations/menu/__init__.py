"""The environment as a finite menu with numbers as observations, for learners that do not write text."""
