"""The command `zerosearch`: finds the command's module, loads it only then, and turns errors into one line."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .errors import MissingExtraError, ZeroSearchError, unknown_name

_OURS = ("zerosearch_env", "zerosearch_agents", "zerosearch_benchmarks")

# Set before any library that reads them is loaded; a value that the user has set stays.
_ENVIRONMENT = {
    # Waiting OpenMP threads sleep instead of spinning: on cores shared with other work an eightfold difference.
    "OMP_WAIT_POLICY": "PASSIVE",
    # tokenizers warns about (and disables) its threads after a fork; the texts here are short.
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Command:
    """One command of `zerosearch`."""

    module: str
    """Import name of the module whose `main(argv) -> int` runs it."""
    summary: str
    """One sentence for the help."""
    extra: str | None = None
    """The extra of this distribution that brings its libraries."""


COMMANDS: dict[str, Command] = {
    "play": Command("zerosearch_env.commands.play", "Be the policy yourself: search and answer in the terminal."),
    "quickstart": Command(
        "zerosearch_agents.quickstart", "Train a small search agent, measure it, and write a report.", "train"
    ),
    "pretrain": Command(
        "zerosearch_agents.tiny.pretrain", "Train the small base model that stands in for a pretrained LLM.", "train"
    ),
    "train": Command("zerosearch_agents.training.cli", "Train a policy with reinforcement learning.", "train"),
    "plan": Command(
        "zerosearch_agents.plan.cli", "Print what a preset needs in memory and time on GPUs, or run it dry.", "train"
    ),
    "eval": Command(
        "zerosearch_agents.evaluation.cli",
        "Measure checkpoints, your own agents and baselines at fixed noise.",
        "train",
    ),
    "simulator": Command(
        "zerosearch_agents.simulator.cli",
        "Tune a language model as search engine: collect, label, ... evaluate.",
        "train",
    ),
    "bench": Command("zerosearch_benchmarks.cli", "Measure the speed of the package beside its peers."),
    "serve": Command(
        "zerosearch_env.serve.command", "Answer /retrieve requests of other training code over any engine.", "serve"
    ),
    "index": Command("zerosearch_env.commands.index", "Build a dense index, or say what one holds.", "dense"),
    "cache": Command("zerosearch_env.commands.cache", "Look into a file of cached searches, or empty it."),
    "view": Command("zerosearch_env.commands.view", "Turn recorded transcripts into one HTML file."),
}


def help_text() -> str:
    """The text of `zerosearch --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: zerosearch COMMAND [options]",
            "",
            "A search environment with a controllable noise level, and a learner and a benchmark beside it.",
            "",
            *lines,
            "",
            "zerosearch COMMAND --help    says what a command takes",
            "zerosearch --version         prints the version",
            "ZEROSEARCH_TRACEBACK=1       shows where an error comes from",
        ]
    )


def _load(name: str) -> Callable[[list[str]], int]:
    """The `main` of the command called `name`."""
    command = COMMANDS[name]
    try:
        return importlib.import_module(command.module).main  # type: ignore[no-any-return]
    except ModuleNotFoundError as cause:
        library = (cause.name or "").partition(".")[0]
        if command.extra is None or library in _OURS or isinstance(cause, ZeroSearchError):
            raise
        raise MissingExtraError(
            f"`zerosearch {name}` needs {library!r}, which is not installed. "
            f'Install it with: pip install "zerosearch-env[{command.extra}]"'
        ) from cause


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"zerosearch-env {importlib.metadata.version('zerosearch-env')}")
        return 0
    if argv[0] not in COMMANDS:
        raise unknown_name("command", argv[0], COMMANDS)
    return _load(argv[0])(argv[1:])


def main(argv: list[str] | None = None) -> int:
    """Runs one command, and ends the process where it is one of several (see `_leave`).

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit status: the command's own, 2 after an error of this package (one line on stderr), 130 after Ctrl-C,
        141 when the reader of the output has gone (as of `zerosearch ... | head`).
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return _leave(_status(sys.argv[1:] if argv is None else argv))


def _leave(status: int) -> int:
    """The exit status; a process that torchrun started among several ends here, without the interpreter's shutdown.

    gloo's and NCCL's threads may still run then, and taking them down may abort a process that has done all its work
    ("terminate called without an active exception"), which torchrun would report as a failure of the run.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _status(argv: list[str]) -> int:
    """The exit status of one command, its errors turned into lines."""
    try:
        return _dispatch(argv)
    except ZeroSearchError as error:
        if os.environ.get("ZEROSEARCH_TRACEBACK"):
            raise
        from .privacy import redact

        print(f"zerosearch: error: {redact(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nzerosearch: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
