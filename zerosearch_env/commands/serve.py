"""`zerosearch serve`: searches for other training code, or with `--openenv` episodes for clients of OpenEnv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..command_line import read_options
from ..errors import ConfigError
from ..serve.command import ServeConfig, serve


@dataclass(frozen=True)
class ServeOptions(ServeConfig):
    """Serve any search engine over every /retrieve dialect (Search-R1, verl, SkyRL, ...), or episodes to OpenEnv."""

    openenv: bool = False
    """Serve episodes over OpenEnv's protocol instead of searches (docs/frameworks/openenv.md). Options for /retrieve
    alone are refused."""
    env: str | None = None
    """With --openenv: more arguments of the environment, as JSON: '{"protocol": "search-r1", "reward": "f1"}'."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch serve`.

    Args:
        argv: arguments after the command name; None uses those of the process.

    Returns:
        Exit code: 0 after SIGINT or SIGTERM, 1 if requests had to be cut off.

    Raises:
        ZeroSearchError: an option is invalid, or a library is missing.
    """
    config = read_options(ServeOptions, argv, "zerosearch serve")
    if config.openenv:
        from ..integrations.openenv.serve import serve_openenv

        return serve_openenv(config, config.env)
    if config.env is not None:
        raise ConfigError("--env has the arguments of episodes, which only --openenv serves: add --openenv")
    return serve(config)
