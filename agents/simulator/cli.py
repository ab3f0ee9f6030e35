"""`zerosearch simulator`: the pipeline that tunes a simulation LLM, one command a stage.

    collect -> label -> extract -> train -> evaluate

Each stage reads a file and writes a file with a manifest, and can be run alone. `tiny` stands beside them: it makes the
simulation LLM that the package ships.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import shlex
import sys
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tyro

from zerosearch_env.errors import unknown_name


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, or what stands beside it."""

    module: str
    """Module of this package that holds the next two names."""
    config: str
    """Class of its options."""
    run: str
    """`run(config, command=...)` does it and returns what was counted."""
    summary: str


STAGES: dict[str, Stage] = {
    "collect": Stage(
        "pairs.collect",
        "CollectConfig",
        "run_collect",
        "Let an agent search, and keep every query with its documents.",
    ),
    "label": Stage(
        "pairs.label", "LabelConfig", "run_label", "Say of each document set whether it is useful or noisy."
    ),
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
        "tiny.make", "TinySimulatorConfig", "run_tiny", "Make `simulated:tiny` anew, from the synthetic world alone."
    ),
}


def help_text() -> str:
    """The text of `zerosearch simulator --help`: every stage with the names of its options."""
    lines = ["usage: zerosearch simulator STAGE [options]", "", *(__doc__ or "").splitlines()[2:4]]
    for name, stage in STAGES.items():
        config = getattr(_module(stage), stage.config)
        options = " ".join(_options(config))
        lines += ["", f"  {name:<9}{stage.summary}"]
        lines += textwrap.wrap(
            options, 100, initial_indent=" " * 11, subsequent_indent=" " * 11, break_on_hyphens=False
        )
    return "\n".join([*lines, "", "zerosearch simulator STAGE --help says what each option means."])


def main(argv: list[str] | None = None) -> int:
    """Runs one stage.

    Args:
        argv: arguments after `zerosearch simulator`; None takes those of the process.

    Returns:
        The exit status: 0, or 130 when a training run was interrupted and saved.

    Raises:
        ConfigError: for an unknown stage; the nearest one is suggested.
        SystemExit: after the help.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        raise SystemExit(0)  # as tyro does after the help of every other command
    name, *rest = argv
    if name not in STAGES:
        raise unknown_name("stage", name, STAGES)
    stage = STAGES[name]
    module = _module(stage)
    prog = f"zerosearch simulator {name}"
    config = tyro.cli(getattr(module, stage.config), args=rest, prog=prog, description=module.__doc__)
    counts = getattr(module, stage.run)(config, command=shlex.join(["zerosearch", "simulator", *argv]))
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
        _print(name, counts)
    return 130 if counts.get("stopped") == "interrupt" else 0


def _module(stage: Stage) -> Any:
    return importlib.import_module(f".{stage.module}", __package__)


def _options(config: Any, prefix: str = "--") -> list[str]:
    """The names of all options of a dataclass, those of dataclasses inside it too."""
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
