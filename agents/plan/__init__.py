"""Planning: estimate the memory and time of a training run on GPUs."""
