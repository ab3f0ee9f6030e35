r"""`zerosearch bench robustness`: how robust are search agents to retrieval noise, under a frozen definition?

    zerosearch bench robustness --agent my_module:agent --agent baseline:rag
    zerosearch bench robustness --definition v1-small --agent openai:http://127.0.0.1:8000/v1 --budget requests=5000

It is `zerosearch eval` with the questions, the noise and the rules of a definition: v1 (18,000 episodes per agent),
v1-small (560 episodes, for models that take seconds per episode), or a TOML file of your own (docs/robustness.md).
Results carry its hash. The same command continues an interrupted run.

Exit status: 0 if every cell is complete, 3 if episodes are missing because an agent or an engine failed or the budget
is used up, 2 after any other error.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Suppress

from zerosearch_agents.commands.evaluate import EvalConfig, exit_status
from zerosearch_agents.config.definition import Definition
from zerosearch_agents.players.spec import parse_agent
from zerosearch_env.command_line import read_options
from zerosearch_env.datasets.files.rows import OnBadRow
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.errors import ConfigError
from zerosearch_env.privacy import redact

from .definitions import BASE, load_definition

NAME = "zerosearch bench robustness"


@dataclass(frozen=True)
class RobustnessConfig(EvalConfig):
    """The options of `zerosearch eval`, except those that the definition decides."""

    definition: str = BASE
    """v1, v1-small, or a TOML file of your own; what it leaves out is as in v1."""
    # What follows is decided by the definition. These are no options of the command; `follow` sets them.
    dataset: Suppress[str] = "world"
    columns: Suppress[tuple[str, ...]] = ()
    on_bad_row: Suppress[OnBadRow] = "raise"
    split: Suppress[str] = "test"
    world: Suppress[WorldConfig] = field(default_factory=WorldConfig)
    questions: Suppress[int | None] = None
    per_hop: Suppress[bool] = True
    samples: Suppress[int] = 1
    noise: Suppress[tuple[float, ...]] = ()
    noise_kind: Suppress[tuple[str, ...]] = ()
    noise_unit: Suppress[Literal["search", "document"]] = "search"
    engine: Suppress[tuple[str, ...]] = ()
    max_turns: Suppress[int | None] = None
    top_k: Suppress[int | None] = None
    abstentions: Suppress[tuple[str, ...] | None] = None
    seed: Suppress[int] = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the options and play the benchmark.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        The exit status: 0, or 3 if a cell is incomplete.

    Raises:
        ConfigError: an option or the definition is invalid, or an option is one that the definition decides.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    definition = load_definition(_chosen(argv))
    check_options(argv, definition)
    default = RobustnessConfig(output=Path("runs") / f"robustness-{definition.name}")
    config = read_options(RobustnessConfig, argv, NAME, description=__doc__, default=default)
    check_agents([*config.agent, *config.tool_agent], definition)
    command = redact(shlex.join([*NAME.split(), *argv]))
    return exit_status(follow(config, definition), command=command, definition=definition)


def follow(config: RobustnessConfig, definition: Definition) -> RobustnessConfig:
    """The options with everything that the definition decides."""
    decided: dict[str, Any] = {name: getattr(definition, name) for name in definition.decided}
    return replace(config, **{**decided, "engine": (definition.engine,)})


def check_options(argv: Sequence[str], definition: Definition) -> None:
    """Refuse options of `zerosearch eval` that the definition decides.

    Args:
        argv: the arguments of the command.
        definition: the definition.

    Raises:
        ConfigError: there is one.
    """
    for argument in argv:
        option = argument.partition("=")[0]
        name = option.removeprefix("--").replace("-", "_").partition(".")[0].removeprefix("no_")
        if option.startswith("--") and name in (*definition.decided, "on_bad_row"):
            raise _decided(option, name, definition)


def check_agents(agents: Sequence[str], definition: Definition) -> None:
    """Refuse rules in the description of an agent that the definition decides.

    Args:
        agents: as `--agent` and `--tool-agent`.
        definition: the definition.

    Raises:
        ConfigError: there is one.
    """
    for agent in agents:
        spec = parse_agent(agent)
        for name in spec.card:
            if name in definition.decided:
                raise _decided(f"{name} of the agent {spec.label!r}", name, definition)


def _decided(option: str, name: str, definition: Definition) -> ConfigError:
    value = getattr(definition, name, "raise")
    shown = list(value) if isinstance(value, tuple) else value
    return ConfigError(
        f"{option} is decided by the definition {definition.name!r} ({name} = {shown!r:.200}), so that all agents get "
        "the same task. For another task write a definition of your own and pass it with --definition FILE "
        "(docs/robustness.md), or use zerosearch eval"
    )


def _chosen(argv: Sequence[str]) -> str:
    """The definition that the arguments name."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--definition", default=BASE)
    return str(parser.parse_known_args(argv)[0].definition)
