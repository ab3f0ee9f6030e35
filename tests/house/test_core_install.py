"""An installation without any extra: a virtual environment with the base dependencies only, and what works in it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OURS = {"zerosearch_env": "zerosearch_env", "zerosearch_agents": "agents", "zerosearch_benchmarks": "benchmarks"}
AGENT = """
import zerosearch_env


def agent(observation, info):
    return "<answer>x</answer>" if info["searches"] else f"<search>{info['question']}</search>"


def broken(observation, info):
    raise RuntimeError("429")
"""


def base_distributions() -> set[str]:
    """The names of the base dependencies, and of all that they need."""
    found: set[str] = set()
    waiting = [*tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]]
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += importlib.metadata.requires(name) or []
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds links to the base dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("core") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in base_distributions():
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    for name, place in OURS.items():
        (site / name).symlink_to(ROOT / place)
    return folder / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-I", "-m", "zerosearch_env.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_no_optional_library_is_there(python: Path) -> None:
    code = "from importlib.util import find_spec as f; print([m for m in ('torch', 'tomli_w', 'aiohttp') if f(m)])"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_agents_and_baselines_are_evaluated_and_reported(python: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(AGENT)
    small = ["--world.passages", "400", "--questions", "4", "--noise", "0", "1"]
    agents = ["--agent", "mine.py:agent", "--agent", "baseline:random", "--agent", "baseline:oracle"]
    done = run(python, tmp_path, "eval", *agents, *small)
    assert (done.returncode, done.stderr) == (0, "")
    assert "EM in %" in done.stdout
    done = run(python, tmp_path, "eval", "--agent", "mine.py:broken", *small, "--output", "broken")
    assert done.returncode == 3
    assert "RuntimeError: 429" in done.stderr
    (transcripts, *_) = sorted((tmp_path / "runs/eval/transcripts").glob("*.jsonl"))
    assert run(python, tmp_path, "view", str(transcripts)).returncode == 0
    assert run(python, tmp_path, "report", "runs/eval").returncode == 0
    done = run(python, tmp_path, "eval", "--agent", "tiny", *small, "--output", "tiny")
    assert done.returncode == 2
    assert 'pip install "zerosearch-env[train]"' in done.stderr
