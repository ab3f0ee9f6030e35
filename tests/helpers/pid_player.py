"""A player that a worker process can load without torch: its answers say in which process it plays."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class PidOptions:
    """Options of `PidPlayer`."""

    path: str = ""
    exit_status: int | None = None


class PidPlayer:
    """Answers with its process, that one's parent and number of threads, or ends the process."""

    def __init__(self, options: PidOptions) -> None:
        self.options = options

    def play_here(self, episodes, engine, on_done=None) -> None:
        if self.options.exit_status is not None:
            os._exit(self.options.exit_status)
        for position, episode in enumerate(episodes):
            episode.advance(f"<answer> {os.getpid()} {os.getppid()} {os.environ['OMP_NUM_THREADS']} </answer>")
            on_done(position)
