"""Options: every setting of training and tuning as a frozen dataclass. Importable without torch."""
