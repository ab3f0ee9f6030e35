"""`zerosearch simulator`: the pipeline that tunes a simulation LLM, one command per stage.

    collect -> label -> extract -> train -> evaluate

Each stage reads a file, writes a file with a manifest, and can be run on its own. The extra command `tiny` makes the
simulation LLM shipped with the package.
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

import tyro

from zerosearch_env.commands.dispatch import run_command
from zerosearch_env.errors import AgentError


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, or the extra command `tiny`."""

    module: str
    """Module of this package that defines the next two names."""
    config: str
    """Name of the class of its options."""
    run: str
    """Name of its function: `run(config, command=...)` runs the stage and returns counts to print."""
    summary: str

    def import_module(self) -> Any:
        """The stage's module."""
        return importlib.import_module(f".{self.module}", __package__)

    def load(self, name: str) -> Callable[[list[str]], int]:
        """The function that runs the stage called `name` with its arguments, and prints its counts."""

        def run(argv: list[str]) -> int:
            module, words = self.import_module(), ["zerosearch", "simulator", name]
            options = tyro.cli(
                getattr(module, self.config), args=argv, prog=" ".join(words), description=module.__doc__
            )
            counts = getattr(module, self.run)(options, command=shlex.join([*words, *argv]))
            if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
                _print(name, counts)
            if counts.get("stopped") == "interrupt":
                return 130
            failed = counts.get("engine_failures") or counts.get("agent_failures")
            return AgentError.exit_status if failed else 0

        return run


STAGES: dict[str, Stage] = {
    "collect": Stage(
        "pairs.collect",
        "CollectConfig",
        "run_collect",
        "Let an agent search, and keep every query with its documents.",
    ),
    "label": Stage("pairs.label", "LabelConfig", "run_label", "Label each document set as useful or noisy."),
    "extract": Stage(
        "pairs.extract", "ExtractConfig", "run_extract", "Make balanced training pairs, split by question."
    ),
    "train": Stage("tuning.train", "TuneConfig", "run_train", "Tune a language model on the pairs."),
    "evaluate": Stage(
        "evaluation.evaluate",
        "SimulatorEvalConfig",
        "run_evaluate",
        "Measure a simulated engine: noise, leaks, style, attacks.",
    ),
    "tiny": Stage(
        "tiny.make", "TinySimulatorConfig", "run_tiny", "Make `simulated:tiny` from scratch, from the synthetic world."
    ),
}


def help_text() -> str:
    """The output of `zerosearch simulator --help`: every stage with the names of its options."""
    lines = ["usage: zerosearch simulator STAGE [options]", "", *(__doc__ or "").splitlines()[2:4]]
    for name, stage in STAGES.items():
        config = getattr(stage.import_module(), stage.config)
        options = " ".join(_options(config))
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
