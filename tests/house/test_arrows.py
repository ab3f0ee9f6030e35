"""Imports point one way only, and a plain import stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"zerosearch_env": "zerosearch_env", "zerosearch_agents": "agents", "zerosearch_benchmarks": "benchmarks"}
ALLOWED = {
    "zerosearch_env": {"zerosearch_env"},
    "zerosearch_agents": {"zerosearch_env", "zerosearch_agents"},
    "zerosearch_benchmarks": set(FOLDERS),
}

# A module of zerosearch_env may import modules of its own line and of the lines above it.
LAYERS = [
    {"types", "errors", "randomness", "drafts"},
    {"protocols", "prompts", "noise", "rewards", "spaces"},
    {"llm"},
    {"rules", "episode", "engines", "datasets"},
    {"transcripts", "render", "render_html", "infos", "shell"},
    {"env", "vector_env"},
    {"wrappers", "play", "view", "serve", "index", "cache", "cli"},
]
LAYER = {module: level for level, modules in enumerate(LAYERS) for module in modules}
HEAVY = {
    *("torch", "transformers", "tokenizers", "safetensors", "vllm", "openai", "stable_baselines3"),
    *("rich", "tyro", "bm25s", "datasets", "pyarrow", "pandas", "matplotlib", "jinja2", "tensorboard", "scipy"),
    *("starlette", "uvicorn", "msgpack"),
    *("faiss", "sentence_transformers"),
    *("aiohttp", "sqlite3"),
}


def _files(package: str) -> list[Path]:
    files = sorted((ROOT / FOLDERS[package]).rglob("*.py"))
    assert files
    return files


def _imports(path: Path, package: str) -> Iterator[tuple[str, bool, int]]:
    """(full module name, written relative, line) of every import of a file, also those inside functions."""
    folder = ROOT / FOLDERS[package]
    parts = [package, *path.relative_to(folder).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = [*parts[: -node.level], *filter(None, [node.module])] if node.level else [node.module or ""]
            for alias in node.names:
                yield ".".join([*base, alias.name]), node.level > 0, node.lineno


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_import_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _files(package)
        for name, _, line in _imports(path, package)
        if name.partition(".")[0] in FOLDERS and name.partition(".")[0] not in ALLOWED[package]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["zerosearch_agents", "zerosearch_benchmarks"])
def test_own_imports_are_relative(package: str) -> None:
    """The folder names differ from the installed names, and `agents` belongs to another distribution."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _files(package)
        for name, relative, line in _imports(path, package)
        if (name.partition(".")[0] == package and not relative) or name.partition(".")[0] in ("agents", "benchmarks")
    ]
    assert not wrong, "\n".join(wrong)


def test_layers_of_the_environment() -> None:
    wrong = []
    for path in _files("zerosearch_env"):
        parts = path.relative_to(ROOT / "zerosearch_env").with_suffix("").parts
        if parts == ("__init__",):
            continue
        assert parts[0] in LAYER, f"{path.relative_to(ROOT)} has no place in LAYERS of this test: give it one"
        for name, _, line in _imports(path, "zerosearch_env"):
            package, _, inner = name.partition(".")
            target = inner.partition(".")[0]
            if package == "zerosearch_env" and LAYER.get(target, -1) > LAYER[parts[0]]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}, which stands above it")
            if package == "zerosearch_env" and not inner:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports the package as a whole")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "statement",
    [
        "import zerosearch_env",
        "import zerosearch_env.cli as c; c.main(['--help'])",
        "import zerosearch_agents, zerosearch_benchmarks",
    ],
)
def test_plain_import_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint('MODULES', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert "zerosearch_env" in loaded or "zerosearch_agents" in loaded
    assert not loaded & HEAVY
