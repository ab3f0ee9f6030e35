"""Commands of `zerosearch` that need only this package: play, view, cache, index."""
