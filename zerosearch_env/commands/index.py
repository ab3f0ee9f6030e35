"""`zerosearch index build | info`: build an index for the engine `dense:FOLDER`, or describe an existing one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import tyro

from ..datasets.options import ReadingOptions
from ..engines.dense.build import BuildOptions, build_index, check_output
from ..engines.dense.manifest import Manifest, read_manifest, verify_files
from ..errors import ConfigError
from ..types import Document
from .dispatch import Subcommand, group_help, run_command


@dataclass(frozen=True)
class BuildConfig(ReadingOptions):
    """Embed the passages of a corpus file or of the built-in world, and write an index for `dense:FOLDER`."""

    encoder: str
    """A sentence-transformers model: its folder, or its name on the hub."""
    output: Path
    """The folder of the index."""
    corpus: Path | None = None
    """Corpus file or folder of shards with the fields `id` and `contents`, or `title` and `text`."""
    world: int | None = None
    """Number of passages of the built-in world to index, instead of a corpus file."""
    split: str = "train"
    """Split of the world."""
    world_seed: int = 0
    """Seed of the world."""
    limit: int | None = None
    """Maximum number of passages to read from the file. None: all."""
    index: tyro.conf.OmitArgPrefixes[BuildOptions] = field(default_factory=BuildOptions)
    """How the index is built."""
    device: str | None = None
    """Device for the encoder: "cpu", "cuda", ... None: chosen by the library."""
    overwrite: bool = False
    """Replace an existing index in the output folder, once the new one is complete."""
    restart: bool = False
    """Discard an unfinished build that was started with other passages, another encoder or other options."""


@dataclass(frozen=True)
class InfoConfig:
    """Describe an index and the encoder it requires."""

    folder: tyro.conf.Positional[Path]
    """The folder of the index."""
    verify: bool = False
    """Read every file and compare it with its digest."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch index`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code: 0, or 130 after Ctrl-C.

    Raises:
        ZeroSearchError: an option is invalid, or the build failed.
    """
    return run_command("command of `zerosearch index`", COMMANDS, help_text, sys.argv[1:] if argv is None else argv)


def help_text() -> str:
    """The text of `zerosearch index --help`."""
    return group_help("zerosearch index", "COMMAND", COMMANDS)


def build(config: BuildConfig) -> int:
    """Run `zerosearch index build`.

    Raises:
        ZeroSearchError: an option is invalid, or the build failed.
    """
    from ..engines.dense.encoders import SentenceEncoder
    from ..progress import ProgressBar
    from ..records.terminal import make_console

    # Check the options first; loading the encoder takes a while.
    check_output(config.output.expanduser().absolute(), config.overwrite)
    passages = _passages(config)
    passages = chain([next(passages)], passages)
    console = make_console()
    console.print(f"loading the encoder {config.encoder}")
    encoder = SentenceEncoder(config.encoder, device=config.device)
    bars: dict[str, ProgressBar] = {}
    try:
        with contextlib.ExitStack() as stack:

            def show(stage: str, done: int, total: int) -> None:
                if stage not in bars:
                    stack.close()  # the bar of the stage before
                    bars[stage] = stack.enter_context(ProgressBar(stage, total, console=console))
                bars[stage].update(done)

            manifest = build_index(
                passages,
                config.output,
                encoder,
                config.index,
                overwrite=config.overwrite,
                restart=config.restart,
                progress=show,
            )
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to continue from the last finished shard")
        return 130
    _show(console, config.output, manifest)
    console.print(f'use it with: search_engine="dense:{config.output}"')
    return 0


def info(config: InfoConfig) -> int:
    """Run `zerosearch index info`.

    Raises:
        DataError: there is no index in the folder, or it is damaged.
    """
    from ..records.terminal import make_console

    folder = config.folder.expanduser()
    manifest = read_manifest(folder)
    if config.verify:
        verify_files(folder, manifest)
    _show(make_console(), folder, manifest)
    return 0


def _passages(config: BuildConfig) -> Iterator[Document]:
    if (config.corpus is None) == (config.world is None):
        raise ConfigError("give exactly one source of passages: --corpus FILE or --world NUMBER")
    if config.corpus is not None:
        from ..datasets.files.passages import iter_corpus

        return iter_corpus(config.corpus, on_bad_row=config.on_bad_row, columns=config.column_names, limit=config.limit)
    from ..datasets import load_dataset
    from ..datasets.world.make import WorldConfig

    assert config.world is not None
    world = WorldConfig(seed=config.world_seed, passages=config.world)
    return iter(load_dataset("world", config.split, world=world).passages or ())


def _show(console: Any, folder: Path, manifest: Manifest) -> None:
    size = sum(entry["bytes"] for entry in manifest.files.values())
    rows = {
        "index": str(folder),
        "passages": f"{manifest.passages:,}",
        "kind": f"{manifest.kind}, {manifest.metric}, {manifest.dimension} dimensions",
        "encoder": f"{manifest.encoder} (fingerprint {manifest.encoder_fingerprint})",
        "template": repr(manifest.template),
        "prefixes": f"query {manifest.query_prefix!r}, passage {manifest.passage_prefix!r}",
        "size": f"{size / 1e6:,.1f} MB",
        "built with": ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
    }
    for name, value in rows.items():
        console.print(f"{name:>10}  {value}", soft_wrap=True)


COMMANDS = {
    "build": Subcommand("zerosearch index", BuildConfig, build),
    "info": Subcommand("zerosearch index", InfoConfig, info),
}
"""The commands of `zerosearch index`."""
