"""Imports point one way only, and a plain import stays light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "zerosearch_env": "zerosearch_env",
    "zerosearch_agents": "agents",
    "zerosearch_benchmarks": "benchmarks",
    "zerosearch_verifiers": "zerosearch_verifiers",
}
ALLOWED = {
    "zerosearch_env": {"zerosearch_env"},
    "zerosearch_agents": {"zerosearch_env", "zerosearch_agents"},
    "zerosearch_benchmarks": {"zerosearch_env", "zerosearch_agents", "zerosearch_benchmarks"},
    "zerosearch_verifiers": {"zerosearch_env", "zerosearch_verifiers"},
}

# The rooms of each package, lowest first. A room may import itself, the rooms before it, and the rooms in its own line.
# A module at the root of a package counts as a room.
ROOMS = {
    "zerosearch_env": [
        "types errors randomness privacy checks bounded_cache files identity locks progress loading command_line",
        "protocols",
        "game",
        "datasets",
        "llm retrieve_api",
        "engines",
        "records",
        "envs",
        "serve",
        "integrations",
        "commands",
        "cli",
    ],
    "zerosearch_agents": [
        "config processes",
        "policy",
        "sampling",
        "rollouts",
        "integrations",
        "forward",
        "objective",
        "runs",
        "players",
        "evaluation",
        "report",
        "commands",
        "training",
        "demos",
        "sft",
        "tiny",
        "simulator",
        "plan quickstart",
    ],
    "zerosearch_benchmarks": ["measure models", "speed", "learning gpu noise robustness", "cli"],
    "zerosearch_verifiers": [],
}
MOST_MODULES = 14
"""Modules of one folder, `__init__.py` not counted."""
HEAVY = {
    *("torch", "transformers", "tokenizers", "safetensors", "vllm", "openai", "stable_baselines3"),
    *(
        "rich",
        "tyro",
        "platformdirs",
        "bm25s",
        "datasets",
        "pyarrow",
        "pandas",
        "matplotlib",
        "jinja2",
        "tensorboard",
        "scipy",
    ),
    *("starlette", "uvicorn", "msgpack", "prometheus_client", "mcp"),
    *("faiss", "sentence_transformers"),
    *("aiohttp", "sqlite3"),
}


@cache
def _files(package: str) -> list[Path]:
    files = sorted((ROOT / FOLDERS[package]).rglob("*.py"))
    assert files
    return files


@cache
def _imports(path: Path, package: str) -> list[tuple[str, bool, int]]:
    """(full module name, written relative, line) of every import of a file, also those inside functions."""
    imports = []
    folder = ROOT / FOLDERS[package]
    parts = [package, *path.relative_to(folder).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.append((alias.name, False, node.lineno))
        elif isinstance(node, ast.ImportFrom):
            base = [*parts[: -node.level], *filter(None, [node.module])] if node.level else [node.module or ""]
            for alias in node.names:
                imports.append((".".join([*base, alias.name]), node.level > 0, node.lineno))
    return imports


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_import_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _files(package)
        for name, _, line in _imports(path, package)
        if name.partition(".")[0] in FOLDERS and name.partition(".")[0] not in ALLOWED[package]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FOLDERS)
def test_own_imports_are_relative(package: str) -> None:
    """The folder names differ from the installed names, and `agents` belongs to another distribution."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _files(package)
        for name, relative, line in _imports(path, package)
        if (name.partition(".")[0] == package and not relative) or name.partition(".")[0] in ("agents", "benchmarks")
    ]
    assert not wrong, "\n".join(wrong)


def _modules(package: str) -> dict[str, Path]:
    """Every module of a package by its full name; a folder's `__init__.py` by the folder's name."""
    folder = ROOT / FOLDERS[package]
    found = {}
    for path in _files(package):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def _graph(package: str) -> dict[str, dict[str, int]]:
    """Module -> the modules of the same package that it imports, each with the line.

    `__init__.py` files are left out: they only pass on names of the modules in their room.
    """
    modules = _modules(package)
    graph: dict[str, dict[str, int]] = {}
    for module, path in modules.items():
        if path.name == "__init__.py":
            continue
        graph[module] = {}
        for name, _, line in _imports(path, package):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and modules[target].name != "__init__.py":
                graph[module].setdefault(target, line)
    return graph


def _room(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("package", FOLDERS)
def test_every_room_has_its_place(package: str) -> None:
    rooms = {_room(module) for module in _modules(package) if module != package}
    assert rooms == {room for line in ROOMS[package] for room in line.split()}


@pytest.mark.parametrize("package", FOLDERS)
def test_arrows_between_rooms_run_down(package: str) -> None:
    floor = {room: number for number, line in enumerate(ROOMS[package]) for room in line.split()}
    wrong = []
    for path in _files(package):
        parts = path.relative_to(ROOT / FOLDERS[package]).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name, _, line in _imports(path, package):
            top, _, inner = name.partition(".")
            room = inner.partition(".")[0]
            if top == package and room in floor and floor[room] > floor[parts[0]]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name} from a room above")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FOLDERS)
def test_no_circles(package: str) -> None:
    graph = _graph(package)
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in graph[module]:
            if circle := walk(target, [*path, module]):
                return circle
        done.add(module)
        return []

    circles = [" -> ".join(circle) for module in graph if (circle := walk(module, []))]
    assert not circles, "\n".join(circles)


@pytest.mark.parametrize("package", FOLDERS)
def test_rooms_without_a_fixed_order_form_no_circle(package: str) -> None:
    """Rooms in one line of `ROOMS`, and folders inside a room, import each other in one direction only."""
    edges: dict[str, dict[str, str]] = {}
    for module, targets in _graph(package).items():
        for target in targets:
            first, second = module.split(".")[1:-1], target.split(".")[1:-1]
            while first and second and first[0] == second[0]:
                first, second = first[1:], second[1:]
            if first and second:
                place = module.split(".")[: -1 - len(first)]
                source, goal = ".".join([*place, first[0]]), ".".join([*place, second[0]])
                edges.setdefault(source, {})[goal] = f"{module} imports {target}"
    both = [f"{edges[a][b]}, and {edges[b][a]}" for a in edges for b in edges[a] if a < b and a in edges.get(b, {})]
    assert not both, "\n".join(both)


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_are_small(package: str) -> None:
    counts = Counter(path.parent for path in _files(package) if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in counts.items() if count > MOST_MODULES}


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


_SHOW_HELPS = """
import contextlib, io, json, sys
from zerosearch_benchmarks.speed.start import helps
from zerosearch_env import cli

heavy, shown, loaded = set(sys.argv[1].split()), [], {}


def note(command):
    for module in heavy & set(sys.modules):
        loaded.setdefault(module, command)


with contextlib.redirect_stderr(io.StringIO()):
    cli.main(["trian"])
note("trian")
for words, _ in helps():
    shown.append(" ".join(words))
    note(shown[-1])
print(json.dumps([shown, loaded]))
"""


@pytest.mark.slow
def test_no_help_loads_a_heavy_library() -> None:
    heavy = " ".join(HEAVY - {"tyro", "sqlite3"})  # tyro writes the help; sqlite3 loads in 5 ms
    done = subprocess.run([sys.executable, "-c", _SHOW_HELPS, heavy], capture_output=True, text=True, check=True)
    helps, loaded = json.loads(done.stdout)
    assert {"", "train", "simulator collect", "index build", "bench serve"} <= set(helps)
    assert loaded == {}
