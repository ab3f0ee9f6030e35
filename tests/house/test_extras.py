"""The table of optional libraries: it agrees with pyproject.toml, and messages name the extra that the user needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import zerosearch_env
from zerosearch_env.errors import EXTRAS, MissingExtraError, require
from zerosearch_env.serve.app import make_app
from zerosearch_env.types import SearchRequest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DISTRIBUTIONS = {"faiss": "faiss-cpu"}
"""Names of distributions that differ from the import name by more than hyphens."""


def _distributions(extra: str) -> set[str]:
    """The distributions that an extra installs, also through other extras of this project."""
    names = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        if inner := re.match(r"zerosearch-env\[([\w,]+)\]", requirement):
            names |= {name for part in inner[1].split(",") for name in _distributions(part)}
        else:
            names.add(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]  # every requirement starts with a name
    return names


@pytest.mark.parametrize(
    ("version", "wanted"), [("3.11.7", True), ("3.12.0", True), ("3.12.1", False), ("3.13.0", False)]
)
def test_gem_is_only_wanted_where_it_can_be_installed(version: str, wanted: bool) -> None:
    """gem-llm 0.1.0 declares `Requires-Python: >=3.10, <=3.12`."""
    gem = Requirement(PROJECT["optional-dependencies"]["gem"][0])
    assert gem.name == "gem-llm"
    assert gem.marker is not None
    minor = version.rpartition(".")[0]
    assert gem.marker.evaluate({"python_full_version": version, "python_version": minor}) is wanted
    assert SpecifierSet(">=3.10, <=3.12").contains(version) is wanted


@pytest.mark.parametrize("library", EXTRAS)
def test_every_named_extra_installs_the_library(library: str) -> None:
    for extra in EXTRAS[library]:
        assert DISTRIBUTIONS.get(library, library.replace("_", "-")) in _distributions(extra)


@pytest.mark.slow
def test_every_required_library_is_in_the_table() -> None:
    calls = 0
    for folder in ("zerosearch_env", "agents", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
                    calls += 1
                    literal = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                    if isinstance(node.args[0], ast.Constant):
                        extras = EXTRAS[str(literal[0]).partition(".")[0]]
                        assert set(literal[1:]) <= set(extras), f"{path}, line {node.lineno}"
    assert calls > 30


def test_the_message_names_the_first_extra_or_the_one_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(MissingExtraError, match=r'pip install "zerosearch-env\[retrieve\]"'):
        require("msgpack")
    with pytest.raises(MissingExtraError, match=r'pip install "zerosearch-env\[serve\]"'):
        require("msgpack", "serve")


def test_the_server_names_its_extra_when_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(MissingExtraError, match=r"'msgpack' is needed .*zerosearch-env\[serve\]"):
        make_app(None)  # type: ignore[arg-type]  # it is not looked at


@pytest.mark.parametrize(
    ("spec", "extra"),
    [
        ("retrieve:http://127.0.0.1:9", "retrieve"),
        ("serper", "retrieve"),
        ("simulated:openai:http://127.0.0.1:9/v1", "openai"),
    ],
)
def test_engines_name_their_extra(spec: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setenv("SERPER_API_KEY", "a-key-of-nobody")
    engine = zerosearch_env.make_engine(spec)
    with pytest.raises(MissingExtraError, match=rf"'aiohttp' is needed .*zerosearch-env\[{extra}\]"):
        engine.search([SearchRequest("who", noisy=False, top_k=1, seed=0, question="Who?", answers=("A",))])
    engine.close()
