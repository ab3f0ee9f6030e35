"""Loggers besides `metrics.jsonl`: TensorBoard and Weights & Biases. Neither of them receives credentials."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from zerosearch_env.errors import MissingExtraError, require

from ..config.train import TrainConfig, shown_config

WANDB_ID_FILE = "wandb-id.txt"


class Logger(Protocol):
    """An additional destination for the metrics that `MetricsLog` writes."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a finished step (1-based)."""

    def flush(self) -> None:
        """Passes on everything written so far."""

    def close(self) -> None:
        """Closes the log."""


class TensorBoardLog:
    """Event files for TensorBoard.

    Args:
        folder: directory for the event files.
        step: steps finished before this log starts; later steps of an earlier session are purged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a finished step (1-based)."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Passes on everything written so far."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


class WandbLog:
    """A run in Weights & Biases, the same one when the training run is resumed.

    The library's recording of command line, console, code and git is turned off, since a command line may contain a
    key. Steps repeated after a resume or a rollback appear twice in the history, in the order they were logged. The x
    axis is the metric `step`.

    Args:
        output: the run directory; the library's files and the run's id are stored in it.
        config: shown as the run's configuration, without credentials.

    Raises:
        MissingExtraError: when the library is not installed.
    """

    def __init__(self, output: Path, config: TrainConfig) -> None:
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError as cause:
            raise MissingExtraError(
                f"files.wandb needs the library wandb, which could not be imported ({cause}). "
                "Install it with: pip install wandb"
            ) from cause
        id_file = output / WANDB_ID_FILE
        if not id_file.is_file():
            id_file.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
        self._run: Any = wandb.init(
            project=config.files.wandb_project,
            name=output.name,
            id=id_file.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(output),
            config=shown_config(config),
            settings=wandb.Settings(console="off", disable_code=True, disable_git=True, x_disable_meta=True),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a finished step (1-based)."""
        self._run.log({"step": step, **metrics})

    def flush(self) -> None:
        """Does nothing: the library sends its data from a separate process."""

    def close(self) -> None:
        """Waits until everything is sent, or written to disk in offline mode."""
        self._run.finish()


def make_loggers(output: Path, config: TrainConfig, step: int) -> list[Logger]:
    """Creates the loggers that a configuration selects.

    Args:
        output: the run directory.
        config: the run's configuration.
        step: steps finished before the loggers start.
    """
    loggers: list[Logger] = []
    if config.files.tensorboard:
        loggers.append(TensorBoardLog(output / "tensorboard", step))
    if config.files.wandb:
        loggers.append(WandbLog(output, config))
    return loggers
