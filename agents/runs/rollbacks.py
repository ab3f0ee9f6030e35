"""The rollbacks of a run: `rollbacks.jsonl`, and the removal of checkpoints that a rollback has undone.

The record is written and synced before undone checkpoints are removed, and every checkpoint stores the number of
rollbacks before it. So a run that is killed at any moment of a rollback takes the same path when it is resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.errors import CheckpointError, sentence
from zerosearch_env.files import write_text

if TYPE_CHECKING:
    from .checkpoint import RunState  # imports torch, which readers of `rollbacks.jsonl` do not need

ROLLBACKS_FILE = "rollbacks.jsonl"


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier checkpoint."""

    alarm: str
    """Message of the alarm that caused it."""
    step: int
    """Steps finished before the rollback."""
    to_step: int
    """Steps finished in the checkpoint from which the run continued."""
    undone: Sequence[Mapping[str, float]]
    """Metrics of the undone steps."""


def read_rollbacks(output: Path) -> list[Rollback]:
    """The rollbacks of a run, oldest first. An incomplete last line is ignored: it had no effect yet.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = output / ROLLBACKS_FILE
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [Rollback(**json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as cause:
        raise CheckpointError(
            f"{path} is damaged: {sentence(cause)} Delete it to continue without the rollbacks that it records."
        ) from cause


def record_rollback(output: Path, rollback: Rollback) -> None:
    """Adds a rollback to the file, synced to disk, then removes the checkpoints that it undoes."""
    rollbacks = [*read_rollbacks(output), rollback]
    write_text(output / ROLLBACKS_FILE, "".join(json.dumps(asdict(entry)) + "\n" for entry in rollbacks))
    remove_given_up(output)


def remove_given_up(output: Path) -> None:
    """Removes the checkpoints that rollbacks have undone."""
    from .checkpoint import checkpoint_paths, checkpoint_state

    rollbacks = read_rollbacks(output)
    for path in checkpoint_paths(output / "checkpoints") if rollbacks else ():
        try:
            state = checkpoint_state(path)
        except CheckpointError:
            continue  # damaged: never loaded, but kept for inspection
        if not is_current(state, rollbacks):
            shutil.rmtree(path)


def is_current(state: RunState, rollbacks: Sequence[Rollback]) -> bool:
    """Whether no later rollback has undone a checkpoint."""
    return all(state.step <= later.to_step for later in rollbacks[state.rollbacks :])
