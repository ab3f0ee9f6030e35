"""`zerosearch simulator`: the pipeline that tunes a simulation LLM, one command per stage.

    collect -> label -> extract -> train -> evaluate

Each stage reads a file, writes a file with a manifest, and can be run on its own. Two more commands: `probe` says
whether a model is fit to play the search engine, and `tiny` makes the simulation LLM shipped with the package.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zerosearch_env.command_line import read_options
from zerosearch_env.commands.dispatch import group_help, run_command
from zerosearch_env.errors import AgentError


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, or `probe` or `tiny`; its module is imported when it is needed."""

    module: str
    """The module, below this package."""
    options_name: str
    """Its dataclass of the options."""
    run_name: str
    """Its function `run(options, command=...)`, which runs the stage and returns counts to print."""
    summary: str
    """One sentence for the help."""

    # Any: a class or a function
    def _load(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{self.module}"), name)

    def load(self, name: str) -> Callable[[list[str]], int]:
        """The function that runs the stage called `name` with its arguments, and prints its counts."""

        def main(argv: list[str]) -> int:
            words = ["zerosearch", "simulator", name]
            run: Callable[..., Mapping[str, Any]] = self._load(self.run_name)
            description = sys.modules[run.__module__].__doc__
            options: Any = read_options(self._load(self.options_name), argv, " ".join(words), description=description)
            counts = run(options, command=shlex.join([*words, *argv]))
            if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
                _print(name, counts)
            if counts.get("stopped") == "interrupt":
                return 130
            failed = counts.get("engine_failures") or counts.get("agent_failures")
            return AgentError.exit_status if failed else 0

        return main


STAGES = {
    "collect": Stage(
        "pairs.collect",
        "CollectConfig",
        "run_collect",
        "Let an agent answer questions with a search engine and keep every query with its documents.",
    ),
    "label": Stage(
        "pairs.label",
        "LabelConfig",
        "run_label",
        "Label every document set of some trajectories as useful or noisy.",
    ),
    "extract": Stage(
        "pairs.extract",
        "ExtractConfig",
        "run_extract",
        "Make training pairs for a simulation LLM out of labelled trajectories.",
    ),
    "train": Stage(
        "tuning.train",
        "TuneConfig",
        "run_train",
        "Fine-tune a language model as a search engine, on the pairs of an extract file.",
    ),
    "evaluate": Stage(
        "evaluation.evaluate",
        "SimulatorEvalConfig",
        "run_evaluate",
        "Measure a simulated search engine: noise, leaks, style, attacks.",
    ),
    "probe": Stage(
        "evaluation.fitness",
        "SimulatorProbeConfig",
        "run_probe",
        "Say by four searches whether a language model is fit to play the search engine.",
    ),
    "tiny": Stage(
        "tiny.make",
        "TinySimulatorConfig",
        "run_tiny",
        "Make `simulated:tiny` from scratch; the defaults reproduce the shipped model.",
    ),
}


def help_text() -> str:
    """The text of `zerosearch simulator --help`."""
    return group_help("zerosearch simulator", "STAGE", STAGES)


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


def _print(name: str, counts: Mapping[str, Any]) -> None:
    figures = [f"{what.replace('_', ' ')} {value}" for what, value in counts.items() if value not in (0, None)]
    print(f"{name}: {', '.join(figures)}")
