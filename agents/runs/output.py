"""The output of a run on disk: what an earlier run has left there, and whether this run continues it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zerosearch_env.datasets.files.find import find_files
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.files import remove

from ..config.definition import definition_differences
from ..config.train import FREE_FIELDS, TrainConfig, shown_config
from ..config.vllm import parse_sampler

EVALUATION_FOLDER = "evaluation"
"""The folder in a run directory for evaluations of its policy."""
RESULTS_FILE = "results.json"
"""The results of an evaluation, in its folder."""
TRANSCRIPTS_FOLDER = "transcripts"
"""The episodes of an evaluation, in its folder."""
TRANSCRIPTS_FILE = "transcripts.jsonl"
"""The episodes of a training run, in its directory."""
REPORT_FILE = "report.html"
REPORT_FOLDER = "report_files"
"""The transcripts that the report has no room for, next to it."""
NOTES_FILE = "report.json"
"""What a page says about a run that is in no other file of it."""

WAY_OUT = "choose another --output, or pass --fresh to start from scratch"
"""What to do if an output belongs to another run."""

ABOUT_RUN = (EVALUATION_FOLDER, RESULTS_FILE, TRANSCRIPTS_FOLDER, REPORT_FILE, REPORT_FOLDER, NOTES_FILE)
"""Files and folders that evaluations and reports of a run write into its directory."""


def transcript_files(source: Path) -> list[Path]:
    """The files of transcripts that a path names.

    Args:
        source: a file; the output folder of an evaluation; a run directory; or a folder with `.jsonl` files.

    Raises:
        DataError: there is none.
    """
    source = source.expanduser()
    if source.is_dir():
        run, folder = source / TRANSCRIPTS_FILE, source / TRANSCRIPTS_FOLDER
        files = [run] if run.is_file() else sorted((folder if folder.is_dir() else source).glob("*.jsonl"))
    else:
        files = find_files(source, "train")
    if not files:
        raise DataError(
            f"there is no .jsonl file in {source}: expected a file of transcripts, the output folder of "
            "`zerosearch eval`, or a run directory"
        )
    return files


def check_settings(
    output: Path, present: Sequence[str], earlier: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> None:
    """Decide whether a run may write to an output: it may if it starts there, or continues a run with these settings.

    Args:
        output: the file or folder, for the message.
        present: names of the run's files that exist already.
        earlier: the settings that the earlier run has recorded; None if there is no record.
        settings: the settings that both runs must share.

    Raises:
        ConfigError: the files belong to a run with other settings, or to none that left a record.
    """
    if earlier is None and present:
        raise ConfigError(
            f"{output}: found {', '.join(present)}, but no manifest of the run that wrote them; {WAY_OUT}"
        )
    if earlier is not None and (differences := settings_differences(earlier, settings)):
        raise ConfigError(f"{output} was made with other settings ({'; '.join(differences)}); {WAY_OUT}")


def check_definition(output: Path, earlier: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    """Check that results in a folder are of the same definition of a benchmark, whatever its name.

    Args:
        output: the folder, for the message.
        earlier: the record of the definition in the folder; None: its results follow none.
        now: the record of the definition of this run; None: it follows none.

    Raises:
        ConfigError: they differ.
    """
    if (earlier or {}).get("hash") == (now or {}).get("hash"):
        return
    if earlier is None:
        what = f"results of `zerosearch eval`, which follow no definition, and this run is of {_definition(now)}"
    elif now is None:
        what = (
            f"results of {_definition(earlier)}, and this run follows no definition; "
            "`zerosearch bench robustness` plays further agents"
        )
    else:
        differences = definition_differences(earlier.get("values", {}), now["values"])
        what = f"results of {_definition(earlier)}, and this run is of {_definition(now)}: {'; '.join(differences)}"
    raise ConfigError(f"{output} holds {what}; {WAY_OUT}")


def _definition(record: Mapping[str, Any] | None) -> str:
    return f"the definition {record.get('name')!r} ({record.get('hash')})" if record else "no definition"


def settings_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings that differ, each as `name: old -> new`; both sides are compared as JSON values."""
    old, new = json.loads(json.dumps([old, new], default=str))
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in dict.fromkeys([*new, *old]) if old.get(k) != new.get(k)]


def config_differences(saved: TrainConfig, new: TrainConfig) -> list[str]:
    """The `settings_differences` of two training configurations in the fields that a resumed run may not change.

    Credentials and the addresses of sampling servers are ignored.
    """
    return settings_differences(_fixed_settings(saved), _fixed_settings(new))


def _fixed_settings(config: TrainConfig) -> dict[str, Any]:
    values = shown_config(config) | {"rollout.sampler": parse_sampler(config.rollout.sampler).kind}
    return {name: value for name, value in values.items() if name not in FREE_FIELDS}


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove these files and folders of an earlier run, where they exist."""
    for name in names:
        remove(folder / name)
