"""Commands of `zerosearch` that need the environment alone: play, view, cache, index."""
