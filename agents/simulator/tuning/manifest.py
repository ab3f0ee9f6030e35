"""The run directory of `zerosearch simulator train`: its settings, its manifest, and whether a run can be resumed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zerosearch_env.errors import CheckpointError
from zerosearch_env.identity import folder_hash, package_identity

from ...config.tune import FREE, TuneConfig
from ...runs.output import check_settings, remove_files
from ..pairs.files import input_files, input_record, read_manifest, write_manifest

RUN_FILES = ("manifest.json", "metrics.jsonl", "checkpoints", "model")


def settings_of(config: TuneConfig) -> dict[str, Any]:
    """The settings that must agree for a run to be resumed: options, and hashes of the inputs.

    Raises:
        DataError: there is no file with pairs.
        CheckpointError: there is no model.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in FREE}
    settings["input"] = input_record(input_files([config.input], config.output))["sha256"]
    if config.model is not None:
        if not config.model.is_dir():
            raise CheckpointError(f"there is no folder with a model at {config.model}")
        settings["model_files"] = folder_hash(config.model)
    return settings | package_identity()


def prepare_output(config: TuneConfig, settings: dict[str, Any], *, command: str) -> None:
    """Prepare the run directory; an earlier run with the same settings is kept.

    Raises:
        ConfigError: it holds a run with other settings, or files without a manifest.
    """
    output, manifest = config.output, config.output / "manifest.json"
    if config.fresh:
        remove_files(output, RUN_FILES)
    earlier = read_manifest(manifest)
    present = [name for name in RUN_FILES if (output / name).exists()]
    check_settings(output, present, None if earlier is None else earlier.get("settings", {}), settings)
    write_run_manifest(config, settings, command=command, counts={}, complete=False)


def write_run_manifest(
    config: TuneConfig, settings: dict[str, Any], *, command: str, counts: dict[str, Any], complete: bool
) -> None:
    """Write the run's manifest."""
    source = {"paths": [config.input], "sha256": settings["input"]}
    manifest = config.output / "manifest.json"
    write_manifest(
        manifest, "train", complete=complete, settings=settings, input=source, command=command, counts=counts
    )
