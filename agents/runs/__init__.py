"""The run directory: checkpoints, metrics, loggers, alarms, rollbacks."""
