"""Learners, players and evaluation for `zerosearch_env`; installed as `zerosearch_agents`."""
