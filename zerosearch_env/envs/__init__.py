"""The Gymnasium environments: one environment, and a vector of many."""
