"""The rollbacks of a run: `rollbacks.jsonl`, and which checkpoints are left over from a path that was given up.

The record is written and synced before any checkpoint of the given-up path is removed, and every checkpoint knows how
many rollbacks there had been when it was saved. So a run that is killed at any moment of a rollback takes the same
path when it is resumed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from zerosearch_env.errors import CheckpointError

from .checkpoint import RunState, checkpoint_paths, checkpoint_state

ROLLBACKS_FILE = "rollbacks.jsonl"


@dataclass(frozen=True)
class Rollback:
    """One return to an earlier checkpoint."""

    alarm: str
    """What announced the collapse, in words."""
    step: int
    """Steps finished when the run turned back."""
    to_step: int
    """Steps finished in the checkpoint that it went on from."""
    undone: Sequence[Mapping[str, float]]
    """The metrics of the steps that were given up."""


def read_rollbacks(output: Path) -> list[Rollback]:
    """The rollbacks of a run, oldest first; a last line that is cut off is left out: it had no effect yet.

    Raises:
        CheckpointError: when the file is damaged.
    """
    path = output / ROLLBACKS_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [Rollback(**json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as cause:
        raise CheckpointError(f"{path} is damaged: {cause}.") from cause


def record_rollback(output: Path, rollback: Rollback) -> None:
    """Adds a rollback to the record, durably, and removes the checkpoints of the path that it gives up."""
    whole = [*read_rollbacks(output), rollback]
    new = output / f".{ROLLBACKS_FILE}.new"
    with new.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one)) + "\n" for one in whole)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, output / ROLLBACKS_FILE)
    remove_given_up(output)


def remove_given_up(output: Path) -> None:
    """Removes the checkpoints of paths that were given up."""
    rollbacks = read_rollbacks(output)
    for path in checkpoint_paths(output / "checkpoints") if rollbacks else ():
        try:
            state = checkpoint_state(path)
        except CheckpointError:
            continue  # damaged: it is never loaded, and stays for whoever wants to look at it
        if not is_current(state, rollbacks):
            shutil.rmtree(path)


def is_current(state: RunState, rollbacks: Sequence[Rollback]) -> bool:
    """Whether a checkpoint lies on the path that the run took in the end."""
    return all(state.step <= later.to_step for later in rollbacks[state.rollbacks :])
