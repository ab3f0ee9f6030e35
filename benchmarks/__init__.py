"""Benchmarks of `zerosearch_env` and `zerosearch_agents`; installed as `zerosearch_benchmarks`."""
