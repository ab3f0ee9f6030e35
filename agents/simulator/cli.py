"""`zerosearch simulator`: the pipeline that tunes a simulation LLM, one command per stage.

    collect -> label -> extract -> train -> evaluate

Each stage reads a file, writes a file with a manifest, and can be run on its own. Two more commands: `probe` says
whether a model is fit to play the search engine, and `tiny` makes the simulation LLM shipped with the package.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import shlex
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zerosearch_env.command_line import read_options
from zerosearch_env.commands.dispatch import run_command
from zerosearch_env.errors import AgentError


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, or `probe` or `tiny`; its module is imported when it is needed."""

    module: str
    """The module, below this package."""
    options_name: str
    """Its dataclass of the options; the first paragraph of the docstring is the summary."""
    run_name: str
    """Its function `run(options, command=...)`, which runs the stage and returns counts to print."""

    @property
    def options(self) -> type:
        """The dataclass of the options."""
        return self._load(self.options_name)  # type: ignore[no-any-return]

    # Any: a class or a function
    def _load(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{self.module}"), name)

    @property
    def summary(self) -> str:
        """The first paragraph of the options' docstring."""
        return (self.options.__doc__ or "").partition("\n\n")[0]

    def load(self, name: str) -> Callable[[list[str]], int]:
        """The function that runs the stage called `name` with its arguments, and prints its counts."""

        def main(argv: list[str]) -> int:
            words = ["zerosearch", "simulator", name]
            run: Callable[..., Mapping[str, Any]] = self._load(self.run_name)
            description = sys.modules[run.__module__].__doc__
            options: Any = read_options(self.options, argv, " ".join(words), description=description)
            counts = run(options, command=shlex.join([*words, *argv]))
            if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
                _print(name, counts)
            if counts.get("stopped") == "interrupt":
                return 130
            failed = counts.get("engine_failures") or counts.get("agent_failures")
            return AgentError.exit_status if failed else 0

        return main


STAGES = {
    "collect": Stage("pairs.collect", "CollectConfig", "run_collect"),
    "label": Stage("pairs.label", "LabelConfig", "run_label"),
    "extract": Stage("pairs.extract", "ExtractConfig", "run_extract"),
    "train": Stage("tuning.train", "TuneConfig", "run_train"),
    "evaluate": Stage("evaluation.evaluate", "SimulatorEvalConfig", "run_evaluate"),
    "probe": Stage("evaluation.fitness", "SimulatorProbeConfig", "run_probe"),
    "tiny": Stage("tiny.make", "TinySimulatorConfig", "run_tiny"),
}


def help_text() -> str:
    """The output of `zerosearch simulator --help`: every stage with the names of its options."""
    lines = ["usage: zerosearch simulator STAGE [options]", "", *(__doc__ or "").splitlines()[2:4]]
    for name, stage in STAGES.items():
        options = " ".join(_options(stage.options))
        lines += ["", f"  {name:<9}{stage.summary}"]
        lines += textwrap.wrap(
            options, 100, initial_indent=" " * 11, subsequent_indent=" " * 11, break_on_hyphens=False
        )
    return "\n".join([*lines, "", "zerosearch simulator STAGE --help explains each option."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage.

    Args:
        argv: arguments after `zerosearch simulator`; None uses the process's arguments.

    Returns:
        The exit status: 0, 3 if episodes are missing because an engine or an agent failed, or 130 if a training run was
        interrupted and saved.

    Raises:
        ConfigError: unknown stage; the message suggests the nearest name.
    """
    return run_command("stage", STAGES, help_text, sys.argv[1:] if argv is None else argv)


def _options(config: Any, prefix: str = "--") -> list[str]:
    """The names of all options of a dataclass, including those of nested dataclasses."""
    names = []
    for name, kind in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(kind):
            names += _options(kind, f"{prefix}{name.replace('_', '-')}.")
        else:
            names.append(f"{prefix}{name.replace('_', '-')}")
    return names


def _print(name: str, counts: Mapping[str, Any]) -> None:
    figures = [f"{what.replace('_', ' ')} {value}" for what, value in counts.items() if value not in (0, None)]
    print(f"{name}: {', '.join(figures)}")
