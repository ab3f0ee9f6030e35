"""Training, players and evaluation for `zerosearch_env`. This package is installed as `zerosearch_agents`."""
