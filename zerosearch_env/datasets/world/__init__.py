"""The built-in synthetic world: people, places, works, organisations, and questions about them."""

from .make import WorldConfig, make_world

__all__ = ["WorldConfig", "make_world"]
