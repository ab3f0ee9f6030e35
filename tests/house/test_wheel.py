"""The distribution: a wheel built from the sdist, its names, its data, and whether it works where it lands."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "zerosearch_env": "zerosearch_env",
    "agents": "zerosearch_agents",
    "benchmarks": "zerosearch_benchmarks",
    "zerosearch_verifiers": "zerosearch_verifiers",
}
DATA = [
    ("agents", "config", "presets"),
    ("agents", "assets"),
    ("agents", "report", "templates"),
    ("benchmarks", "robustness"),
    ("zerosearch_env", "assets"),
    ("zerosearch_env", "records", "templates"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the sdist, built from a copy of the working tree."""
    pytest.importorskip("build", reason="build is not installed (extra dev)")
    source = tmp_path_factory.mktemp("source")
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(ROOT / name, source / name)
    # A folder of an earlier layout must not be shipped.
    (source / "build" / "lib" / "agents").mkdir(parents=True)
    (source / "build" / "lib" / "agents" / "__init__.py").touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    assert list((source / "dist").glob("*.tar.gz"))
    return zipfile.ZipFile(path)


def test_top_level_names(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert info.startswith("zerosearch_env-")
    assert tops - {info} == set(FOLDERS.values())


def test_every_module_and_data_file_is_inside(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    wanted = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    wanted += [ROOT / folder / "py.typed" for folder in FOLDERS]
    wanted += [path for parts in DATA for path in ROOT.joinpath(*parts).rglob("*") if path.is_file()]
    for path in wanted:
        top, *rest = path.relative_to(ROOT).parts
        if "__pycache__" not in rest:
            assert "/".join([FOLDERS[top], *rest]) in names


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text
    base = {
        re.match(r"[\w-]+", line.removeprefix("Requires-Dist: ")).group()  # type: ignore[union-attr]
        for line in text.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert {"gymnasium", "numpy", "platformdirs"} <= base
    assert not base & {"bm25s", "torch", "transformers", "openai", "vllm", "stable-baselines3", "datasets"}
    entry = configparser.ConfigParser()
    entry.read_string(wheel.read(metadata.replace("METADATA", "entry_points.txt")).decode())
    assert dict(entry["console_scripts"]) == {"zerosearch": "zerosearch_env.cli:main"}


def test_installed_wheel_works(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Unpacked beside nothing else of this repository, the environment runs an episode."""
    wheel.extractall(tmp_path)
    code = (
        "import gymnasium, zerosearch_env, zerosearch_agents, zerosearch_benchmarks\n"
        "for module in (zerosearch_env, zerosearch_agents, zerosearch_benchmarks):\n"
        f"    assert module.__file__.startswith({str(tmp_path)!r}), module.__file__\n"
        "env = gymnasium.make('ZeroSearch-v0')\n"
        "env.reset(seed=0)\n"
        "print(env.step('<answer>nobody knows</answer>')[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr
