"""The command `zerosearch`: imports only the module of the chosen command, and prints errors as one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from .commands.dispatch import Command, list_commands, run_command
from .errors import ZeroSearchError

# Set before any library that reads these variables is loaded. Values set by the user are kept.
_ENVIRONMENT = {
    # Waiting OpenMP threads sleep instead of spinning. On cores shared with other work this is eight times faster.
    "OMP_WAIT_POLICY": "PASSIVE",
    # After a fork, tokenizers disables its threads and warns about it. The texts here are short, so no speed is lost.
    "TOKENIZERS_PARALLELISM": "false",
}


COMMANDS: dict[str, Command] = {
    "play": Command("zerosearch_env.commands.play", "Be the policy yourself: search and answer in the terminal."),
    "quickstart": Command(
        "zerosearch_agents.quickstart", "Train a small search agent, measure it, and write a report.", "train"
    ),
    "pretrain": Command(
        "zerosearch_agents.tiny.pretrain", "Train the small base model that stands in for a pretrained LLM.", "train"
    ),
    "sft": Command(
        "zerosearch_agents.sft.cli", "Fine-tune a policy on episodes, before reinforcement learning.", "train"
    ),
    "train": Command("zerosearch_agents.training.cli", "Train a policy with reinforcement learning.", "train"),
    "demos": Command(
        "zerosearch_agents.demos.cli",
        "Make demonstrations for a warm start: scripted, or the best of an agent.",
        "train",
    ),
    "plan": Command("zerosearch_agents.plan.cli", "Estimate a preset's GPU memory and time, or do a dry run.", "train"),
    "eval": Command(
        "zerosearch_agents.commands.evaluate",
        "Evaluate checkpoints, your own agents and baselines at fixed noise levels.",
        "train",
    ),
    "ask": Command(
        "zerosearch_agents.commands.ask", "Ask an agent a question of your own, and watch it search.", "train"
    ),
    "compare": Command(
        "zerosearch_agents.commands.compare",
        "Compare the agents of several evaluations with exact tests, or check a benchmark run.",
    ),
    "rescore": Command(
        "zerosearch_agents.commands.rescore",
        "Add scores to an evaluation from its transcripts, without playing.",
    ),
    "report": Command(
        "zerosearch_agents.report.cli", "Write a run's page again, and its charts as figures for papers."
    ),
    "simulator": Command(
        "zerosearch_agents.simulator.cli",
        "Tune a language model to act as the search engine: collect, label, ... evaluate.",
        "train",
    ),
    "bench": Command(
        "zerosearch_benchmarks.cli", "Benchmarks: robustness of any search agent; speed and learning of this package."
    ),
    "serve": Command(
        "zerosearch_env.commands.serve", "Serve any engine over HTTP (/retrieve), or episodes to OpenEnv.", "serve"
    ),
    "mcp": Command("zerosearch_env.commands.mcp", "Let an agent play one question through an MCP server.", "mcp"),
    "index": Command("zerosearch_env.commands.index", "Build an index of a corpus, BM25 or dense, or describe one."),
    "cache": Command("zerosearch_env.commands.cache", "Show what is cached, search indexes and searches, or clear it."),
    "view": Command("zerosearch_env.commands.view", "Turn recorded transcripts into one HTML file."),
}


def help_text() -> str:
    """The text of `zerosearch --help`."""
    return "\n".join(
        [
            "usage: zerosearch COMMAND [options]",
            "",
            "A search environment with a controllable noise level, with a trainer and benchmarks.",
            "",
            *list_commands(COMMANDS),
            "",
            "zerosearch COMMAND --help    show the options of a command",
            "zerosearch --version         print the version",
            "ZEROSEARCH_TRACEBACK=1       environment variable: show the full traceback of an error",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. Under torchrun with several processes this also ends the process (see `_leave`).

    Args:
        argv: the arguments after the program's name; None: the arguments of the process.

    Returns:
        The exit status: that of the command; after an error of this package, or of the system such as a folder that
        cannot be written (one line on stderr), 3 if an agent failed, otherwise 2; 130 after Ctrl-C or SIGTERM, 141 when
        the reader of the output has closed the pipe (as in `zerosearch ... | head`).
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return _leave(_status(sys.argv[1:] if argv is None else argv))


def _leave(status: int) -> int:
    """Return the exit status. One of several torchrun processes exits here instead, skipping interpreter shutdown.

    Threads of gloo and NCCL may still be running. Destroying them at shutdown can abort a process that has finished its
    work ("terminate called without an active exception"), and torchrun would report the run as failed.
    """
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which job schedulers send, raises KeyboardInterrupt as Ctrl-C does, so that everything is saved."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _status(argv: list[str]) -> int:
    """Run one command and return its exit status; errors are printed as one line."""
    try:
        if argv and argv[0] in ("-V", "--version"):
            from .identity import package_version

            print(f"zerosearch-env {package_version()}")
            return 0
        with _terminated_like_interrupted():
            return run_command("command", COMMANDS, help_text, argv)
    except KeyboardInterrupt:
        print("\nzerosearch: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ZeroSearchError, OSError) as error:
        if os.environ.get("ZEROSEARCH_TRACEBACK"):
            raise
        print(f"zerosearch: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_status if isinstance(error, ZeroSearchError) else 2


def _one_line(error: Exception) -> str:
    """The message of an error, without secrets and without control characters that a terminal would obey."""
    from .privacy import redact
    from .records.html import clean

    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, ZeroSearchError) and error.strerror:
        # Such as a folder that cannot be written.
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return clean(redact(" ".join(text.split())))


if __name__ == "__main__":
    sys.exit(main())
