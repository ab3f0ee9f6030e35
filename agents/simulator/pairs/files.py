"""Files of the tuning pipeline: JSON lines that survive a kill, and a manifest for each file.

    FILE.jsonl             one JSON object per line, each written as a whole
    FILE.manifest.json     schema version, stage, options, input files and their hash, counts

The manifest is written before the first line (with `complete` false) and again at the end. A stage that is run again
with the same options continues after the existing lines; with other options it refuses.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zerosearch_env.datasets.files.find import find_files
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.files import replaced_file
from zerosearch_env.identity import package_identity
from zerosearch_env.records.transcripts import TranscriptWriter

from ...runs.manifest import SCHEMA_VERSION, read_manifest, write_manifest
from ...runs.output import check_settings


def manifest_path(output: Path) -> Path:
    """Path of a file's manifest, in the same folder."""
    name = output.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
    return output.with_name(f"{name}.manifest.json")


class StageOutput:
    """Context manager for the output of a stage that can be interrupted: lines with an id, and their manifest.

    Args:
        path: the JSONL file.
        stage: name of the stage, for the manifest.
        settings: settings that must agree for the lines of an earlier run to be kept: options and the input's hash.
        tally: returns the contribution of one line to each of the manifest's counts.
        notes: further entries of the manifest, which need not agree (command, input).
        fresh: delete the output of an earlier run first.

    Raises:
        ConfigError: an earlier run had other settings, or an existing file has no manifest.
        DataError: the file contains other lines than those of this stage.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        settings: Mapping[str, Any],
        *,
        tally: Callable[[Mapping[str, Any]], Mapping[str, int]],
        notes: Mapping[str, Any] | None = None,
        fresh: bool = False,
    ) -> None:
        self.path, self.stage = path, stage
        self._settings, self._notes = {**settings, **package_identity()}, dict(notes or {})
        self._tally = tally
        self.counts: Counter[str] = Counter()
        """Counts over all lines of the file, including those of earlier runs."""
        self._manifest = manifest_path(path)
        if fresh:
            path.unlink(missing_ok=True)
            self._manifest.unlink(missing_ok=True)
        earlier = read_manifest(self._manifest) if path.exists() else None
        if earlier is not None:
            earlier = {"stage": earlier.get("stage"), **earlier.get("settings", {})}
        present = [path.name] if path.exists() and path.stat().st_size else []
        check_settings(path, present, earlier, {"stage": stage, **self._settings})
        self.ids: set[str] = set()
        """Ids of the existing lines."""
        for record in repair_lines(path):
            self._take(record)
        self._writer = TranscriptWriter(path)
        self.note({}, complete=False)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record with a unique `id`, as one whole line."""
        self._writer.write({"schema_version": SCHEMA_VERSION, **record})
        self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        self.ids.add(str(record["id"]))
        self.counts.update(self._tally(record))

    def note(self, session: Mapping[str, Any], *, complete: bool) -> None:
        """Write the manifest.

        Args:
            session: counts of this session that cannot be computed from the lines.
            complete: whether the stage is finished.
        """
        write_manifest(
            self._manifest,
            self.stage,
            complete=complete,
            settings=self._settings,
            **self._notes,
            lines=len(self.ids),
            counts=self.counts,
            session=session,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()


def repair_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a stage's output, each id once; lines cut off by a kill are removed from the file.

    Raises:
        DataError: a line is valid JSON but does not belong to the pipeline; the file is not changed.
    """
    if not path.exists():
        return []
    records: dict[str, tuple[bytes, dict[str, Any]]] = {}
    lines = 0
    with path.open("rb") as stream:
        for lines, line in enumerate(stream, 1):
            record = None
            if line.endswith(b"\n"):
                with suppress(ValueError):
                    record = json.loads(line)
            if record is None:
                continue
            if not isinstance(record, dict) or "schema_version" not in record or "id" not in record:
                raise DataError(f"{path}, line {lines}: not a line of this pipeline ('schema_version', 'id' expected)")
            records.setdefault(str(record["id"]), (line, record))
    if len(records) < lines:
        with replaced_file(path) as new:
            new.writelines(line for line, _ in records.values())
    return [record for _, record in records.values()]


def input_files(paths: Sequence[Path], output: Path) -> list[Path]:
    """The files that a stage reads, in order: those given, and the shards in the folders given.

    Raises:
        ConfigError: there is none, one is given twice, or one is the output.
        DataError: a file is missing, or a folder holds other files than the shards of one.
    """
    files = [file for path in paths for file in find_files(path.expanduser(), "train")]
    if not files:
        raise ConfigError("no input: give at least one file or folder with --input")
    if len(set(files)) < len(files):
        raise ConfigError(f"a file was given twice: {', '.join(map(str, files))}")
    if output.exists() and any(output.samefile(file) for file in files):
        raise ConfigError(f"input and output are both {output}; choose another --output")
    return files
