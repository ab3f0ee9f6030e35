"""`zerosearch index build bm25 | build dense | info`: build an index for an engine, or describe an existing one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ..datasets.options import ReadingOptions
from ..engines.corpus.build import K1, B, Bm25Manifest, build_folder
from ..engines.dense.build import BuildOptions, build_index
from ..engines.dense.manifest import DenseManifest
from ..engines.indexes.folder import BM25, Manifest, OnProgress, check_output, read_manifest, read_row, verify_files
from ..errors import ConfigError
from ..types import Document
from .dispatch import AnyCommand, Group, Subcommand, group_help, run_command

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class _Source(ReadingOptions):
    """Where the passages come from, and where the index goes."""

    output: Path
    """The folder of the index."""
    corpus: tuple[Path, ...] = ()
    """Corpus files or folders of shards, in order, with the fields `id` and `contents`, or `title` and `text`."""
    world: int | None = None
    """Number of passages of the built-in world to index, instead of a corpus file."""
    split: str = "train"
    """Split of the world."""
    world_seed: int = 0
    """Seed of the world."""
    limit: int | None = None
    """Maximum number of passages to read from each file or folder. None: all."""
    overwrite: bool = False
    """Replace an existing index in the output folder, once the new one is complete."""
    restart: bool = False
    """Discard an unfinished build that was started with other passages or options."""


@dataclass(frozen=True, kw_only=True)
class Bm25Config(_Source):
    """Write the BM25 index of a corpus for `corpus:FOLDER`, larger than memory if need be."""

    k1: float = K1
    """Saturation of repeated words, at least 0."""
    b: float = B
    """Penalty on long passages, from 0 to 1."""
    memory: int = 1024
    """Memory that the build aims to stay within, in megabytes, at least 200."""


@dataclass(frozen=True, kw_only=True)
class DenseConfig(_Source):
    """Embed the passages of a corpus and write an index for `dense:FOLDER`."""

    encoder: str
    """A sentence-transformers model: its folder, or its name on the hub."""
    index: tyro.conf.OmitArgPrefixes[BuildOptions] = field(default_factory=BuildOptions)
    """How the index is built."""
    device: str | None = None
    """Device for the encoder: "cpu", "cuda", ... None: chosen by the library."""


@dataclass(frozen=True)
class InfoConfig:
    """Describe an index."""

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


def build_bm25(config: Bm25Config) -> int:
    """Run `zerosearch index build bm25`.

    Raises:
        ZeroSearchError: an option is invalid, or a file is missing or broken.
    """
    return _build(
        config,
        "corpus",
        lambda passages, progress: build_folder(
            passages,
            config.output,
            k1=config.k1,
            b=config.b,
            memory=config.memory,
            overwrite=config.overwrite,
            restart=config.restart,
            progress=progress,
        ),
    )


def build_dense(config: DenseConfig) -> int:
    """Run `zerosearch index build dense`.

    Raises:
        ZeroSearchError: an option is invalid, or the build failed.
    """
    from ..engines.dense.encoders import SentenceEncoder

    def build(passages: Iterator[Document], progress: OnProgress) -> Manifest:
        return build_index(
            passages,
            config.output,
            SentenceEncoder(config.encoder, device=config.device),
            config.index,
            overwrite=config.overwrite,
            restart=config.restart,
            progress=progress,
        )

    return _build(config, "dense", build)


def _build(config: _Source, engine: str, build: Callable[[Iterator[Document], OnProgress], Manifest]) -> int:
    from ..progress import stage_bars
    from ..records.terminal import make_console

    # Check the options first; reading the corpus and loading an encoder take a while.
    check_output(config.output.expanduser().absolute(), config.overwrite)
    passages = _passages(config)
    passages = chain([next(passages)], passages)
    console = make_console()
    try:
        with stage_bars(console) as progress:
            manifest = build(passages, progress)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to continue from what is finished")
        return 130
    _show(console, config.output, manifest)
    console.print(f'use it with: search_engine="{engine}:{config.output}"', soft_wrap=True)
    return 0


def info(config: InfoConfig) -> int:
    """Run `zerosearch index info`.

    Raises:
        DataError: there is no index in the folder, or it is damaged.
    """
    from ..records.terminal import make_console

    folder = config.folder.expanduser()
    kind = Bm25Manifest if read_row(folder).get("kind") == BM25 else DenseManifest
    manifest = read_manifest(folder, kind)
    if config.verify:
        verify_files(folder, manifest)
    _show(make_console(), folder, manifest)
    return 0


def _passages(config: _Source) -> Iterator[Document]:
    if bool(config.corpus) == (config.world is not None):
        raise ConfigError("give exactly one source of passages: --corpus FILE or --world NUMBER")
    if config.corpus:
        from ..datasets.files.passages import iter_corpus

        return chain.from_iterable(
            iter_corpus(path, on_bad_row=config.on_bad_row, columns=config.column_names, limit=config.limit)
            for path in config.corpus
        )
    from ..datasets import load_dataset
    from ..datasets.world.make import WorldConfig

    assert config.world is not None
    world = WorldConfig(seed=config.world_seed, passages=config.world)
    return iter(load_dataset("world", config.split, world=world).passages or ())


def _show(console: Console, folder: Path, manifest: Manifest) -> None:
    size = sum(entry["bytes"] for entry in manifest.files.values())
    rows = {"index": str(folder), "passages": f"{manifest.passages:,}"}
    if isinstance(manifest, DenseManifest):
        rows |= {
            "kind": f"{manifest.kind}, {manifest.metric}, {manifest.dimension} dimensions",
            "encoder": f"{manifest.encoder} (fingerprint {manifest.encoder_fingerprint})",
            "template": repr(manifest.template),
            "prefixes": f"query {manifest.query_prefix!r}, passage {manifest.passage_prefix!r}",
        }
    if isinstance(manifest, Bm25Manifest):
        rows["kind"] = f"BM25 with k1={manifest.k1:g} and b={manifest.b:g}"
        rows["words"] = f"{manifest.words:,} distinct, {manifest.postings:,} postings"
    rows["size"] = f"{size / 1e6:,.1f} MB"
    rows["built with"] = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    for name, value in rows.items():
        console.print(f"{name:>10}  {value}", soft_wrap=True)


_BUILD = "zerosearch index build"
COMMANDS: dict[str, AnyCommand] = {
    "build": Group(
        _BUILD,
        "Build an index: bm25 for `corpus:FOLDER`, or dense for `dense:FOLDER`.",
        "kind of index",
        {"bm25": Subcommand(_BUILD, Bm25Config, build_bm25), "dense": Subcommand(_BUILD, DenseConfig, build_dense)},
    ),
    "info": Subcommand("zerosearch index", InfoConfig, info),
}
"""The commands of `zerosearch index`."""
