"""Typed errors, one class for each boundary at which something can go wrong.

Rules: a class is added only for a boundary that a caller can react to; it also derives from the standard-library
error a caller would expect; its message says what was expected, what was got, and the way out; it can be pickled.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class ZeroSearchError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(ZeroSearchError, ValueError):
    """An option has a value that cannot be used."""


class DataError(ZeroSearchError, ValueError):
    """A data file, or a row of it, is not what its format promises."""


class EngineError(ZeroSearchError, RuntimeError):
    """A search engine failed after its bounded retries."""

    def __init__(self, message: str, attempts: int = 1) -> None:
        super().__init__(message, attempts)
        self.attempts = attempts

    def __str__(self) -> str:
        return str(self.args[0])


class QuotaError(EngineError):
    """A budget of requests, or a paid account's quota, is used up: no search succeeds until somebody raises it."""


class CacheError(ZeroSearchError, RuntimeError):
    """A file of cached results is locked, broken, or something else."""


class EpisodeError(ZeroSearchError, RuntimeError):
    """The halves of an episode were called out of order: before its search came back, or after its end."""


class CheckpointError(ZeroSearchError, RuntimeError):
    """A checkpoint is missing, half written, or belongs to another configuration."""


class AgentError(ZeroSearchError, RuntimeError):
    """A third party's agent raised, or returned something that is not a text; the message names question and turn."""


class TrainingError(ZeroSearchError, RuntimeError):
    """A training run cannot go on: a worker process died, every search failed, or the gradients are not finite."""


class MissingExtraError(ZeroSearchError, ImportError):
    """An optional library is needed and not installed; the message names the pip line that brings it."""


def unknown_name(what: str, got: object, valid: Iterable[str]) -> ConfigError:
    """A `ConfigError` for a name that is not one of `valid`, with the nearest valid one suggested."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(got), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {what} {got!r}.{hint} Expected one of: {', '.join(map(repr, names))}.")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library at first use.

    Args:
        module: the import name, for example `"torch"`.
        extra: the extra of this distribution that brings it, for example `"train"`.

    Raises:
        MissingExtraError: when it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise MissingExtraError(
            f"{module!r} is needed here and could not be imported ({cause}). "
            f'Install it with: pip install "zerosearch-env[{extra}]"'
        ) from cause
