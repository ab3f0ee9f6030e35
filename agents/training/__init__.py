"""Training: the training loop, a single step, and the state kept between steps."""
