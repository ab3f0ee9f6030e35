"""Commands that consist of commands: their list in the help, and the choice by the first argument."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..command_line import read_options
from ..errors import EXTRAS, MissingExtraError, ZeroSearchError, unknown_name

Main = Callable[[list[str]], int]
_OURS = ("zerosearch_env", "zerosearch_agents", "zerosearch_benchmarks")


class AnyCommand(Protocol):
    """What `run_command` needs of a command."""

    @property
    def summary(self) -> str:
        """One sentence for the help."""
        ...

    def load(self, name: str) -> Main:
        """The function that runs the command with its arguments and returns the exit status."""
        ...


@dataclass(frozen=True)
class Command:
    """A command in a module, which is imported when the command runs."""

    module: str
    """Import name of the module; its `main(argv) -> int` runs the command."""
    summary: str
    """One sentence for the help."""
    extra: str | None = None
    """The extra of this distribution that installs the libraries the command needs; None: it also works without."""

    def load(self, name: str) -> Main:
        """Import the module and return its `main`.

        Raises:
            MissingExtraError: a library of the command's extra, or of another one, is not installed.
        """
        try:
            return importlib.import_module(self.module).main  # type: ignore[no-any-return]
        except ModuleNotFoundError as cause:
            library = (cause.name or "").partition(".")[0]
            extra = self.extra or next(iter(EXTRAS.get(library, ())), None)
            if extra is None or library in _OURS or isinstance(cause, ZeroSearchError):
                raise
            raise MissingExtraError(
                f"the command {name!r} needs {library!r}, which is not installed. "
                f'Install it with: pip install "zerosearch-env[{extra}]"'
            ) from cause


@dataclass(frozen=True)
class Subcommand:
    """A command of another command: a dataclass of options, and the function that runs it."""

    parent: str
    """The command that it belongs to, for example `"zerosearch index"`."""
    options: type
    """The dataclass of its options; the first paragraph of its docstring is the summary."""
    # Any: an instance of `options`
    run: Callable[[Any], int]
    """Called with the options; returns the exit status."""

    @property
    def summary(self) -> str:
        """The first paragraph of the options' docstring."""
        return (self.options.__doc__ or "").partition("\n\n")[0]

    def load(self, name: str) -> Main:
        """The function that reads the options of the command called `name` and runs it."""
        return lambda argv: self.run(read_options(self.options, argv, f"{self.parent} {name}"))


@dataclass(frozen=True)
class Group:
    """A command of another command that consists of commands itself, such as `zerosearch index build`."""

    command: str
    """The command as it is typed."""
    summary: str
    """One sentence for the help."""
    kind: str
    """What an error calls one of its commands."""
    commands: Mapping[str, AnyCommand]
    """Its commands by name."""

    def load(self, name: str) -> Main:
        """The function that runs one of the commands with its arguments."""
        help_text = partial(group_help, self.command, "KIND", self.commands)
        return partial(run_command, self.kind, self.commands, help_text)


def group_help(command: str, kind: str, commands: Mapping[str, AnyCommand]) -> str:
    """The help of a command that consists of commands.

    Args:
        command: the command as it is typed, for example `"zerosearch index"`.
        kind: the word for one of its commands in the usage, for example `"COMMAND"`.
        commands: its commands by name.
    """
    head, tail = f"usage: {command} {kind} [options]", f"{command} {kind} --help shows its options"
    return "\n".join([head, "", *list_commands(commands), "", tail])


def list_commands(commands: Mapping[str, AnyCommand]) -> list[str]:
    """One line per command for the help: its name and summary."""
    width = max(map(len, commands))
    return [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]


def run_command(
    kind: str, commands: Mapping[str, AnyCommand], help_text: Callable[[], str], argv: Sequence[str]
) -> int:
    """Run the command named by the first argument with the other arguments; without arguments print the help.

    Args:
        kind: what an error calls a command, for example `"benchmark"`.
        commands: the commands by name.
        help_text: called to get the help.
        argv: name and arguments.

    Returns:
        The exit status.

    Raises:
        ConfigError: unknown command; the message suggests the nearest name.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    name, *arguments = argv
    if name not in commands:
        raise unknown_name(kind, name, commands)
    return commands[name].load(name)(arguments)
