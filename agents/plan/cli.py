"""`zerosearch plan`: estimate the memory and time of a preset on one or more GPUs, and optionally dry-run it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError

from ..config.train import TrainConfig, load_preset, preset_names
from ..policy.files import local_policy, read_json
from .estimate import MODELS, Architecture, Hardware, Load, RunPlan, context_tokens, make_plan, read_architecture

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class PlanCommand:
    """Estimate the memory and time of a training preset: the size of each part per GPU, and whether everything fits.

    The figures are computed from counts and from assumed shares of peak FLOP/s and bandwidth. Nothing is measured.
    """

    preset: Annotated[str, tyro.conf.Positional]
    """A shipped preset, or the path of your own TOML file."""
    model: str | None = None
    """Name of a public model, or a directory with a config.json; unset: the preset's policy."""
    gpus: tuple[int, ...] = (1, 4, 8, 16)
    """Numbers of GPUs to plan for, one process per GPU; 16 means two nodes of eight."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Data type of matrix products and activations; unset: the preset's value."""
    checkpointing: bool | None = None
    """Whether to recompute activations in the backward pass; unset: the preset's value."""
    episode_tokens: int | None = None
    """Mean number of tokens per episode; unset: half of the maximum."""
    sampled_tokens: int | None = None
    """Mean number of tokens per episode that the policy samples; unset: a quarter of the episode's tokens."""
    hardware: Annotated[Hardware, tyro.conf.arg(name="")] = field(default_factory=Hardware)
    """Figures of the GPU."""
    dry_run: bool = False
    """Also run two steps on the CPU, with a small random model of the same architecture."""


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments after `zerosearch plan`; None uses the process's arguments.

    Returns:
        The exit status, 0.
    """
    names = f"Presets: {', '.join(preset_names())}. Models: {', '.join(MODELS)}."
    command = read_options(
        PlanCommand,
        argv,
        "zerosearch plan",
        description=f"{PlanCommand.__doc__}\n\n{names}",
    )
    config = load_preset(command.preset)
    model = find_architecture(command.model or config.policy)
    plans = {gpus: make_plan(model, config, command.hardware, _load(command, config, gpus)) for gpus in command.gpus}
    from rich.console import Console

    console = Console()
    console.print(plan_table(command, model, plans))
    for line in _notes(command, config):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if command.dry_run:
        from .dry_run import dry_run

        done = dry_run(config, model)
        print(f"dry run: {done.step} steps with a shrunken {model.kind} model in {done.seconds:.0f} s; {done.stopped}.")
    return 0


def find_architecture(name: str) -> Architecture:
    """The architecture of a public model, or of the model in a directory.

    Raises:
        ConfigError: `name` is neither.
    """
    if Path(name).name in MODELS:
        return MODELS[Path(name).name]
    file = local_policy(name) / "config.json"
    if not file.is_file():
        raise ConfigError(
            f"unknown architecture {name!r}: not one of {', '.join(MODELS)}, and {file} does not exist. "
            "Give --model NAME, or --model DIRECTORY with a config.json."
        )
    return read_architecture(read_json(file), str(file))


def plan_table(command: PlanCommand, model: Architecture, plans: dict[int, RunPlan]) -> Table:
    """The plan as a table: one row per part, one column per number of GPUs."""
    from rich.table import Table

    table = Table(title=f"{command.preset}: {model.parameters:,} parameters ({model.kind})", title_justify="left")
    table.add_column("GB on each GPU, with GPUs:")
    for gpus in plans:
        table.add_column(str(gpus), justify="right")
    parts = list(dict.fromkeys(part for plan in plans.values() for part in plan.memory_bytes))
    for part in parts:
        cells = [plan.memory_bytes.get(part) for plan in plans.values()]
        table.add_row(part, *("-" if size is None else f"{size / 1e9:.1f}" for size in cells))
    table.add_section()
    table.add_row("total", *(f"{sum(plan.memory_bytes.values()) / 1e9:.1f}" for plan in plans.values()))
    verdict = [("yes" if plan.fits else "no") for plan in plans.values()]
    table.add_row(f"fits {command.hardware.memory_gb:g} GB less {command.hardware.reserve_gb:g}", *verdict)
    table.add_section()
    for part in next(iter(plans.values())).seconds:
        table.add_row(f"seconds of {part}", *(f"{plan.seconds[part]:.1f}" for plan in plans.values()))
    table.add_row("seconds per step", *(f"{sum(plan.seconds.values()):.1f}" for plan in plans.values()))
    table.add_row("tokens per second", *(f"{plan.tokens_per_second:,.0f}" for plan in plans.values()))
    return table


def _load(command: PlanCommand, config: TrainConfig, gpus: int) -> Load:
    episode = command.episode_tokens or max(context_tokens(config) // 2, 1)
    dtype = command.dtype or config.optimizer.dtype
    checkpointing = command.checkpointing
    if checkpointing is None:
        checkpointing = config.optimizer.gradient_checkpointing
    return Load(gpus, episode, command.sampled_tokens or max(episode // 4, 1), dtype == "bfloat16", checkpointing)


def _notes(command: PlanCommand, config: TrainConfig) -> list[str]:
    load, hardware = _load(command, config, 1), command.hardware
    peak = hardware.tflops if load.bf16 else hardware.tflops_fp32
    episodes = config.rollout.prompts * config.rollout.group_size
    return [
        f"a step: {episodes} episodes of {load.episode_tokens} tokens, {load.sampled_tokens} of them sampled; "
        f"{'bfloat16' if load.bf16 else 'float32'} products, {'with' if load.checkpointing else 'without'} "
        f"activation checkpointing, micro-batches of {config.optimizer.micro_batch_tokens} tokens.",
        f"assumed: {hardware.mfu:.0%} of {peak:g} TFLOP/s, {hardware.bandwidth_share:.0%} of "
        f"{hardware.bandwidth_tb:g} TB/s; searches take no time.",
    ]


if __name__ == "__main__":
    sys.exit(main())
