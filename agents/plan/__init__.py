"""Planning: memory and time of a training run on GPUs."""
