"""The arguments of the environment: their names, types and defaults, for the single and the vector environment."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from ..checks import make_options
from ..datasets import Columns, DatasetSource, OnBadRow
from ..errors import ArgumentError, unknown_name
from ..game.noise_kinds import NoiseSpec
from ..types import Options

if TYPE_CHECKING:
    from ..engines import SearchEngine
    from ..protocols import Protocol

P = ParamSpec("P")
Env = TypeVar("Env")


@dataclass(frozen=True)
class EnvOptions:
    """The arguments of `ZeroSearchEnv`, whose docstring describes each of them."""

    dataset: DatasetSource = "world"
    split: str = "train"
    _: KW_ONLY
    on_bad_row: OnBadRow = "raise"
    columns: Columns | None = None
    world: Options | None = None
    search_engine: str | Options | SearchEngine = "corpus"
    noise_schedule: str | Callable[[float], float] | None = None
    noise_start: float = 0.0
    noise_end: float = 0.5
    noise_base: float = 4.0
    noise_level: float | None = None
    noise_unit: str = "search"
    noise_kind: NoiseSpec | Sequence[NoiseSpec] = "distractor"
    curriculum_episodes: int = 10_000
    reward: str | Callable[..., float] = "em"
    scores: Sequence[str | Callable[..., float]] = ()
    abstentions: Sequence[str] | None = None
    protocol: str | Protocol = "zerosearch"
    prompt_template: str | None = None
    max_turns: int | None = None
    top_k: int | None = None
    invalid_notice: str = "own"
    last_turn_notice: str = "own"
    on_engine_error: str = "truncate"
    render_mode: str | None = None


# Any: `EnvOptions` gives each argument its type
def read_env_options(*args: Any, **arguments: Any) -> EnvOptions:
    """Make options from the arguments of an environment.

    Raises:
        ArgumentError: a name is unknown; the message suggests the most similar valid one.
    """
    for name in arguments.keys() - {option.name for option in fields(EnvOptions)}:
        error = unknown_name("argument of the environment", name, (option.name for option in fields(EnvOptions)))
        raise ArgumentError(f"{error} (unexpected keyword argument {name!r})")
    return make_options(EnvOptions, "argument of the environment", *args, **arguments)


def _takes(
    options: Callable[P, EnvOptions],
) -> Callable[[Callable[[Env, EnvOptions], None]], Callable[Concatenate[Env, P], None]]:
    def decorate(init: Callable[[Env, EnvOptions], None]) -> Callable[Concatenate[Env, P], None]:
        @functools.wraps(init)
        def wrapper(self: Env, /, *args: P.args, **kwargs: P.kwargs) -> None:
            init(self, read_env_options(*args, **kwargs))

        first = next(iter(inspect.signature(init).parameters.values()))
        signature = inspect.signature(options)
        parameters = [first, *signature.parameters.values()]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate


takes_env_options = _takes(EnvOptions)
"""Decorates a constructor that takes `EnvOptions`: callers pass the fields as arguments, with their names and types."""
