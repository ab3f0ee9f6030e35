"""`zerosearch train`: reads the configuration, trains, shows progress and prints the output paths."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError

from ..config.algorithms import ALGORITHMS
from ..config.train import TrainConfig, load_preset, preset_names, read_config, with_algorithm
from ..runs.advice import format_seconds
from .progress import TrainProgress


@dataclass(frozen=True)
class TrainCommand:
    """Train a policy with reinforcement learning.

    Options that are not given take their value from the preset (or from the resumed run). Press Ctrl-C once to stop
    after the current step with everything saved; `--resume` continues from there.
    """

    preset: str | None = None
    """A built-in preset or your own TOML file; it sets the defaults of the other options."""
    algorithm: str | None = None
    """A named algorithm (see above). Sets the options under `algorithm`; options given explicitly override it."""
    resume: str | None = None
    """Run directory to continue; its saved configuration is used."""
    force: bool = False
    """Resume even if the options differ from the saved ones."""
    overwrite: bool = False
    """Remove the run that is in the output directory and start a new one."""
    push_to_hub: str | None = None
    """Push the trained policy, the best one if the run evaluates, to this repository on the Hugging Face Hub, ORG/NAME;
    a new one is private."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """The run's configuration."""


def parse_command(argv: Sequence[str]) -> TrainCommand:
    """Parses `argv`. Options override the preset or the saved configuration.

    Raises:
        ConfigError: for an unknown preset or algorithm, or a preset given together with `--resume`.
        CheckpointError: the run to resume has no configuration.
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
    typed = {token.partition("=")[2] if token.startswith("--") else token for token in argv}
    if start.preset is not None:
        config = load_preset(start.preset, typed=typed)
    elif start.resume is not None:
        saved = Path(start.resume) / "config.toml"
        # Without the file, `train` reports that there is no run to resume. `output` is set again in case the directory
        # was moved.
        config = replace(read_config(saved, typed=typed) if saved.is_file() else config, output=start.resume)
    if start.algorithm is not None:
        config = with_algorithm(config, start.algorithm)
    names = f"Presets: {', '.join(preset_names())}. Algorithms: {', '.join(ALGORITHMS)}."
    return read_options(
        TrainCommand,
        argv,
        "zerosearch train",
        default=TrainCommand(config=config),
        description=f"{TrainCommand.__doc__}\n\n{names}",
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments after `zerosearch train`; None uses those of the process.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    command = parse_command(sys.argv[1:] if argv is None else argv)
    from ..policy.hub import check_push, push_policy
    from ..processes.workers import launch_rank
    from ..runs.directory import BEST_FOLDER
    from ..runs.metrics import BEST_METRIC, best_evaluation, read_metrics
    from ..runs.output import REPORT_FILE
    from .trainer import train

    config = command.config
    leads = launch_rank() == 0
    if leads:
        check_push(command.push_to_hub)
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
    done = f"{result.step} of {config.steps} steps and {_count(result.updates)} in {format_seconds(result.seconds)}"
    print(f"{done}; {_ending(result.stopped, result.output)}")
    print(f"policy       {result.output / 'policy'}")
    published = result.output / "policy"
    if best := best_evaluation(read_metrics(result.output / "metrics.jsonl")):
        figures = f"held-out EM {100 * best[BEST_METRIC]:.1f} % over all noise levels, after step {best['step']:.0f}"
        published = result.output / BEST_FOLDER
        print(f"best policy  {published}  ({figures})")
    print(f"metrics      {result.output / 'metrics.jsonl'}")
    print(f"transcripts  {result.output / 'transcripts.jsonl'}")
    print(f"report       {result.output / REPORT_FILE}")
    if result.stopped == "interrupt":
        return 130
    if command.push_to_hub is not None:
        print(f"pushed to    {push_policy(published, command.push_to_hub)}")
    return 0


def _count(updates: int) -> str:
    return f"{updates} update{'s' * (updates != 1)}"


def _ending(stopped: str, output: Path) -> str:
    again = f"continue with: zerosearch train --resume {output}"
    if stopped == "finished":
        return "finished."
    return f"{'stopped by the time limit' if stopped == 'time' else 'interrupted'}; {again}"


if __name__ == "__main__":
    sys.exit(main())
