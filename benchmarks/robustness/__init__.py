"""The robustness benchmark: its definitions, and the command that plays one."""
