"""Training runs that kill themselves, by SIGKILL, in a forked process (`two_processes.FORKS`).

They are killed by the calls that they make themselves: while a checkpoint is written, before and after it is renamed,
and between two steps.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import tiny
from tqdm import tqdm

from zerosearch_agents.config.train import read_config
from zerosearch_agents.runs import checkpoint
from zerosearch_agents.training import run_files
from zerosearch_agents.training.trainer import train

KILLS: dict[str, tuple[ModuleType | type, str, int]] = {
    "half written": (checkpoint.torch, "save", 2),
    "before the rename": (checkpoint.os, "rename", 2),
    "before the old one goes": (checkpoint.shutil, "rmtree", 1),
    "between steps": (run_files.RunFiles, "record", 3),
    "in the first step": (run_files.RunFiles, "record", 1),
}
"""Where a call is made, its name, and the number of the call that is the last thing the process does."""


def train_until_killed(config: Path, kill: str) -> None:
    """Train with the configuration in a file, up to the kill of that name."""
    module, name, last = KILLS[kill]
    original, calls = getattr(module, name), []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(module, name, counted)
    tqdm.set_lock(threading.RLock())  # its own lock is a semaphore, which would be left over
    train(read_config(config), dataset=tiny.tiny_dataset())
