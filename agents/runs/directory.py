"""The run directory as a whole: what a run writes there, whether a run may start there, and its removal."""

from __future__ import annotations

from pathlib import Path

from zerosearch_env.errors import CheckpointError, ConfigError
from zerosearch_env.privacy import HIDDEN

from ..config.train import TrainConfig, flatten_config, read_config
from ..policy.files import policy_path
from .checkpoint import checkpoint_paths
from .loggers import WANDB_ID_FILE
from .output import ABOUT_RUN, TRANSCRIPTS_FILE, config_differences, remove_files
from .rollbacks import ROLLBACKS_FILE, remove_given_up

CONTENTS_FILE = "contents.json"
"""What the run is made from, by content: the hashes of its questions, corpus, index, simulation LLM and policy."""

BEST_FOLDER = "best"
"""The policy with the best evaluation so far."""

RUN_FILES = (
    "config.toml",
    CONTENTS_FILE,
    "metrics.jsonl",
    TRANSCRIPTS_FILE,
    ROLLBACKS_FILE,
    "checkpoints",
    "policy",
    BEST_FOLDER,
    "tensorboard",
    "wandb",
    WANDB_ID_FILE,
    "sync",
)
"""Files and folders that a run writes into its directory."""


def prepare_output(output: Path, config: TrainConfig, *, resume: bool, force: bool, overwrite: bool) -> None:
    """Checks that a run may write its directory. Removes an existing run only with `overwrite`.

    With the run goes what other commands have written into its directory about it: evaluations and reports. What a
    start has left that failed before its first step counts as no run, and makes room for the next one.

    Raises:
        ConfigError: the directory of a new run already holds a run, or credentials were removed from a value.
        CheckpointError: there is no run to resume, or its configuration differs and `force` is not set.
    """
    saved = output / "config.toml"
    for name, value in flatten_config(config).items():
        if isinstance(value, str) and HIDDEN in value:
            raise ConfigError(
                f"{name} is {value!r}: its credentials are not kept in {saved}. Give the complete value again, or put "
                "them into the environment variable that the engine reads."
            )
    if resume:
        if not saved.is_file():
            raise CheckpointError(f"there is no run to resume in {output}: it has no config.toml.")
        differences = config_differences(read_config(saved, typed=None), config)
        if differences and not force:
            raise CheckpointError(
                f"the run in {output} had a different configuration: {'; '.join(differences)}. "
                "Resume without these options, or force it."
            )
        remove_given_up(output)
    else:
        existing = [name for name in RUN_FILES if (output / name).exists()]
        if existing and not overwrite and not _failed_start(output):
            raise ConfigError(
                f"{output} already holds a run ({', '.join(existing)}): "
                "resume it, choose another output, or overwrite it."
            )
        if existing:
            remove_run(output, config)


def _failed_start(output: Path) -> bool:
    """Whether a directory holds nothing but the record of a run that has not finished a step."""
    metrics = output / "metrics.jsonl"
    results = (output / "policy", output / BEST_FOLDER, *checkpoint_paths(output / "checkpoints"))
    return (
        (output / CONTENTS_FILE).is_file()
        and not (metrics.is_file() and metrics.stat().st_size)
        and not any(path.exists() and path.name != "step-000000" for path in results)
    )


def remove_run(output: Path, config: TrainConfig) -> None:
    """Removes the run in a directory, its evaluations and its report, to make place for another run.

    Raises:
        ConfigError: the new run starts from a policy of the old one; nothing is removed.
    """
    names, policy = (*RUN_FILES, *ABOUT_RUN), policy_path(config.policy).resolve()
    if any(policy.is_relative_to((output / name).resolve()) for name in names):
        raise ConfigError(f"the policy {config.policy} belongs to the run in {output}: choose another output.")
    remove_files(output, names)
