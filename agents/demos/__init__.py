"""Demonstrations for a warm start: a scripted searcher, or episodes of any agent that pass a filter."""
