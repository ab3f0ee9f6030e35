"""The run directory of a fine-tuning run: its settings, its manifest, and whether a run can be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zerosearch_env.errors import CheckpointError
from zerosearch_env.identity import folder_hash, package_identity

from ..config.sft import FREE, SftOptions
from ..runs.manifest import input_record, read_manifest, write_manifest
from ..runs.output import check_settings, remove_files

METRICS, CHECKPOINTS, MANIFEST = "metrics.jsonl", "checkpoints", "manifest.json"


def run_settings(options: SftOptions, files: Sequence[Path], model: Path | None) -> dict[str, Any]:
    """The settings that must agree for a run to be resumed: options, and hashes of the inputs.

    Args:
        options: the options of the run.
        files: its input files.
        model: the directory of the model that it starts from; None: it makes a new one.

    Raises:
        CheckpointError: there is no model.
    """
    settings = {key: value for key, value in asdict(options).items() if key not in FREE}
    settings["input"] = input_record(files)["sha256"]
    if model is not None:
        if not model.is_dir():
            raise CheckpointError(f"there is no folder with a model at {model}")
        settings["model_files"] = folder_hash(model)
    return settings | package_identity()


def prepare_output(options: SftOptions, result: str, settings: Mapping[str, Any]) -> None:
    """Prepare the run directory; an earlier run with the same settings is kept.

    Args:
        options: the options of the run.
        result: the folder of the tuned model in the run directory.
        settings: what both runs must share.

    Raises:
        ConfigError: it holds a run with other settings, or files without a manifest.
    """
    output, names = options.output, (MANIFEST, METRICS, CHECKPOINTS, result)
    if options.fresh:
        remove_files(output, names)
    earlier = read_manifest(output / MANIFEST)
    present = [name for name in names if (output / name).exists()]
    check_settings(output, present, None if earlier is None else earlier.get("settings", {}), settings)


def write_run_manifest(
    options: SftOptions,
    stage: str,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    *,
    command: str,
    counts: Mapping[str, Any],
    complete: bool,
) -> None:
    """Write the run's manifest."""
    write_manifest(
        options.output / MANIFEST,
        stage,
        complete=complete,
        settings=settings,
        input={"paths": list(map(str, files)), "sha256": settings["input"]},
        command=command,
        counts=counts,
    )
