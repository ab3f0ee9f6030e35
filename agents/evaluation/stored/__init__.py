"""What is made of an output folder without playing: the check of a benchmark run, and further scores."""
