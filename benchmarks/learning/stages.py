"""A stage of a long benchmark: a command of the package, which anybody can type, that writes one folder or file.

A stage that has ended leaves `stage.json`, with its command and its seconds, and is not repeated unless its command
changes; one that was interrupted continues where its command can.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerosearch_env.errors import ConfigError
from zerosearch_env.files import write_text

WORKERS = ("--workers", "2")
"""Two processes of one thread are faster than one of two threads."""


@dataclass(frozen=True)
class Stage:
    """One command of the package, and the folder that it writes."""

    name: str
    output: Path
    command: tuple[str, ...]
    """Arguments after `zerosearch`."""
    resume: tuple[str, ...] | None = None
    """The arguments that continue an interrupted run instead; None: `command` does."""
    started: str = ""
    """A file in the folder that shows that there is something to continue."""
    speed: tuple[str, ...] = ()
    """Arguments that decide how fast it runs, not what it writes."""

    @property
    def record_file(self) -> Path:
        """Where the stage's record is."""
        return self.output / "stage.json"

    @property
    def record(self) -> dict[str, Any]:
        """Command, whether it has finished, and seconds so far; empty if it never ran with this command."""
        if not self.record_file.is_file():
            return {}
        record: dict[str, Any] = json.loads(self.record_file.read_text("utf-8"))
        return record if record["command"] == list(self.command) else {}

    def run(self) -> None:
        """Run the command, or continue it; nothing if it has finished.

        Raises:
            ConfigError: the folder holds the results of another command, or the command failed.
        """
        record = self.record
        if record.get("finished"):
            return
        if not record and self.record_file.is_file():
            raise ConfigError(
                f"{self.output} was made by another command. Remove the folder, or choose another with --runs."
            )
        arguments = self.command
        if self.resume is not None and record and (self.output / self.started).exists():
            arguments = self.resume
        arguments += self.speed
        print(f"\n[{self.name}] zerosearch {shlex.join(arguments)}", flush=True)
        seconds, began, status = record.get("seconds", 0.0), time.monotonic(), None
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            self._write(finished=False, seconds=seconds)
            status = subprocess.run([sys.executable, "-m", "zerosearch_env.cli", *arguments], check=False).returncode
        finally:
            self._write(finished=status == 0, seconds=seconds + time.monotonic() - began)
        if status:
            raise ConfigError(f"stage {self.name!r} ended with status {status}; the same command continues it.")

    def _write(self, *, finished: bool, seconds: float) -> None:
        values = {"command": list(self.command), "finished": finished, "seconds": round(seconds, 1)}
        write_text(self.record_file, json.dumps(values, indent=2) + "\n")


def described(stages: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """The `seconds` and the `commands` of stages that have finished, by name, for a record."""
    return {
        "seconds": {stage.name: stage.record["seconds"] for stage in stages},
        "commands": {stage.name: list(stage.command) for stage in stages},
    }


def kept_metrics(run: Path, names: Iterable[str]) -> list[dict[str, float]]:
    """Some of the metrics of every step of a training run, as far as a step has them."""
    from zerosearch_agents.runs.metrics import read_metrics

    wanted = tuple(names)
    return [{name: row[name] for name in wanted if name in row} for row in read_metrics(run / "metrics.jsonl")]
