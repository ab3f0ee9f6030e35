"""The shape of the tree: sizes, docstrings, names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("zerosearch_env", "agents", "benchmarks", "zerosearch_verifiers")
    for path in (ROOT / folder).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def _lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_no_file_is_long_without_a_reason() -> None:
    assert SOURCES
    for path in [*SOURCES, *TESTS]:
        if _lines(path) > 500:
            docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            reason = re.search(r"\b(one file|this long|500 lines)\b", docstring)
            assert reason, f"{path}: {_lines(path)} lines and its docstring does not say why"


def test_every_module_says_what_it_is() -> None:
    assert not [str(path) for path in SOURCES if not path.read_text("utf-8").startswith(('"""', 'r"""'))]


def test_no_message_ends_in_two_full_stops() -> None:
    """A message inside another may end with a full stop already: `errors.sentence` gives it exactly one."""
    quoted = re.compile(r"\{(?:one_line\()?(?:cause|error|reason|problem|message)\)?\}\.(?=[ \"'])")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if quoted.search(line)
    ]
    assert not found, "\n".join(found)


def test_public_docstrings() -> None:
    """Ruff's docstring rules; `make lint` runs all of its rules."""
    pytest.importorskip("ruff", reason="ruff is not installed (extra dev)")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert not re.findall(r"^.*: D1\d\d .*$", done.stdout, re.MULTILINE)


def test_every_folder_with_code_is_a_package_that_is_installed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    mapped = {folder: name for name, folder in config["package-dir"].items()}
    folders = {path.parent.relative_to(ROOT).parts for path in SOURCES}
    names = {".".join([mapped.get(top, top), *rest]) for top, *rest in folders}
    assert names == set(config["packages"])


def test_tests_cannot_shadow_anything() -> None:
    """No `__init__.py` below tests/, no folder called agents there, and no basename twice."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "tests" / "agents").exists()
    twice = [
        name for name, count in Counter(path.name for path in TESTS).items() if count > 1 and name != "conftest.py"
    ]
    assert not twice
