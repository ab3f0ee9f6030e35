"""`zerosearch train`: reads the configuration, shows the progress, says what it wrote where."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from zerosearch_env.errors import ConfigError

from ..config.algorithms import ALGORITHMS
from ..config.train import TrainConfig, load_preset, preset_names, read_config, with_algorithm
from .progress import TrainProgress, format_seconds


@dataclass(frozen=True)
class TrainCommand:
    """Train a policy with reinforcement learning.

    Every option that is not given has the value of the preset (or of the resumed run). Ctrl-C once stops after the
    current step with everything saved; `--resume` goes on from there.
    """

    preset: str | None = None
    """A shipped preset, or a TOML file of your own: where the other options start from."""
    algorithm: str | None = None
    """A named algorithm (see above): sets the options under `algorithm`; any of them that is given too wins."""
    resume: str | None = None
    """Run directory to go on with; its own configuration is used."""
    force: bool = False
    """Resume although other options than the saved ones are given."""
    overwrite: bool = False
    """Start anew in an output directory that holds a run, which is removed."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """The run's configuration."""


def parse_command(argv: Sequence[str]) -> TrainCommand:
    """The command in `argv`; options override the preset or the saved configuration they are given beside.

    Raises:
        ConfigError: for an unknown preset or algorithm, or a preset together with `--resume`.
        CheckpointError: when the run to resume has no configuration.
        SystemExit: for options that do not exist, and after `--help`.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--algorithm")
    first.add_argument("--resume")
    start, _ = first.parse_known_args(argv)
    if start.preset is not None and start.resume is not None:
        raise ConfigError("give --preset or --resume, not both: a resumed run has its own configuration.")
    config = TrainConfig()
    if start.preset is not None:
        config = load_preset(start.preset)
    elif start.resume is not None:
        saved = Path(start.resume) / "config.toml"
        # Without one, `train` says that there is no run to resume. The directory may have moved since it was written.
        config = replace(read_config(saved) if saved.is_file() else config, output=start.resume)
    if start.algorithm is not None:
        config = with_algorithm(config, start.algorithm)
    names = f"Presets: {', '.join(preset_names())}. Algorithms: {', '.join(ALGORITHMS)}."
    return tyro.cli(
        TrainCommand,
        prog="zerosearch train",
        args=list(argv),
        default=TrainCommand(config=config),
        description=f"{TrainCommand.__doc__}\n\n{names}",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments after `zerosearch train`; None takes those of the process.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    command = parse_command(sys.argv[1:] if argv is None else argv)
    from ..processes.workers import launch_rank
    from .trainer import train

    config = command.config
    leads = launch_rank() == 0
    with TrainProgress(config.steps, max_seconds=config.max_seconds) if leads else nullcontext() as progress:
        result = train(
            config,
            callback=progress,
            resume=command.resume is not None,
            force=command.force,
            overwrite=command.overwrite,
        )
    if not leads:
        return 0
    done = f"{result.step} of {config.steps} steps in {format_seconds(result.seconds)}"
    print(f"{done}; {_ending(result.stopped, result.output)}")
    print(f"policy       {result.output / 'policy'}")
    print(f"metrics      {result.output / 'metrics.jsonl'}")
    print(f"transcripts  {result.output / 'transcripts.jsonl'}")
    return 130 if result.stopped == "interrupt" else 0


def _ending(stopped: str, output: Path) -> str:
    again = f"go on with: zerosearch train --resume {output}"
    if stopped == "finished":
        return "finished."
    return f"{'stopped by the time limit' if stopped == 'time' else 'interrupted'}; {again}"


if __name__ == "__main__":
    sys.exit(main())
