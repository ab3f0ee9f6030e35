"""README and docs/: their Python blocks run, their commands and links exist."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zerosearch_env.cli import COMMANDS, main
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.types import StopReason

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A block that a reader completes (a model, a server) stands under the comment `<!-- not run: reason -->`.
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n+)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
MAKE = re.compile(r"\bmake (?P<name>[a-z]+)\b(?!-)")
COMMAND = re.compile(r"^(?:\$ )?zerosearch (?P<name>[a-z-]+)", re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)|src=\"(?P<image>[^\"]+)\"")


def _blocks(*languages: str) -> Iterator[tuple[Path, int, str]]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in BLOCK.finditer(text):
            if match["language"] in languages and not match["skip"]:
                yield page, text.count("\n", 0, match.start("code")) + 1, match["code"]


def _python() -> list[object]:
    """One test a page: its blocks run one after the other, as a reader would type them."""
    pages: dict[Path, list[tuple[int, str]]] = {}
    for page, line, code in _blocks("python"):
        pages.setdefault(page, []).append((line, code))
    # What other frameworks warn of is not ours.
    quiet = {page: [pytest.mark.filterwarnings("ignore")] for page in pages if page.parent.name == "frameworks"}
    return [pytest.param(page, blocks, id=page.name, marks=quiet.get(page, ())) for page, blocks in pages.items()]


@pytest.mark.parametrize(("page", "blocks"), _python())
def test_python_blocks_run(
    page: Path, blocks: list[tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks:
        # Line numbers of the page, so that a failure points into it.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def test_the_readme_has_runnable_code() -> None:
    assert sum(page.name == "README.md" for page, _, _ in _blocks("python")) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    blocks = [code for owner, _, code in _blocks("sh", "console", "bash") if owner == page]
    inline = re.findall(r"`([^`\n]+)`", page.read_text("utf-8"))
    for code in [*blocks, *inline]:
        for match in MAKE.finditer(code):
            assert re.search(rf"^{match['name']}:", makefile, re.MULTILINE), f"{page.name}: make {match['name']}"
        for match in COMMAND.finditer(code):
            assert match["name"] in COMMANDS, f"{page.name}: zerosearch {match['name']}"


GROUPS = ("bench", "cache", "index", "simulator")
"""Commands that consist of commands; `index build` does so too."""


def _flags() -> list[object]:
    """(command, flags that a page gives it) for every command line in README and docs/."""
    used: dict[str, set[str]] = {}
    for _, _, code in _blocks("sh", "console", "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            if match := COMMAND.match(line):
                words = line.split()
                start = words.index(match["name"])
                depth = 2 + (words[start + 1 : start + 2] == ["build"]) if match["name"] in GROUPS else 1
                name = " ".join(words[start : start + depth])
                used.setdefault(name, set()).update(re.findall(r" (--[a-z][\w.-]*)", line))
    return [pytest.param(name, flags - {"--help"}, id=name) for name, flags in used.items() if flags - {"--help"}]


@pytest.mark.parametrize(("name", "flags"), _flags())
def test_commands_take_the_flags_they_are_given(
    name: str, flags: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert not [flag for flag in flags if not re.search(rf"{flag}\b", out)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text("utf-8")):
        target = match["target"] or match["image"]
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text("utf-8").replace("\\_", "_")
    for path in re.findall(
        r"(?<![\w/.-])(?:agents|benchmarks|zerosearch_env|tests|docs|examples)/[\w/*-]+(?:\.\w+)*", text
    ):
        assert any(ROOT.glob(path)), f"{page.name} names {path}, which does not exist"
    for package, inner in re.findall(r"\bzerosearch_(agents|benchmarks|env)((?:\.\w+)+)", text):
        folder, names = ROOT / {"env": "zerosearch_env"}.get(package, package), inner.split(".")[1:]
        while names and (folder / names[0]).is_dir():
            folder /= names.pop(0)
        modules = {file.stem for file in folder.glob("*.py")}
        exported = re.findall(r"\w+", (folder / "__init__.py").read_text("utf-8"))
        assert not names or names[0] in modules.union(exported), f"{page.name}: no zerosearch_{package}{inner}"


def test_the_environment_page_names_every_argument_and_info_key() -> None:
    """What a user can pass or read is on the page, and the class's own docstring agrees with it."""
    page = (ROOT / "docs" / "environment.md").read_text("utf-8")
    arguments = list(inspect.signature(ZeroSearchEnv.__init__).parameters)[1:]
    described = set(re.findall(r"`(\w+)`", page))
    assert set(arguments) <= described
    assert {reason.value for reason in StopReason} - {"context_limit"} <= described
    env = ZeroSearchEnv([{"question": "Q?", "answers": ["A"]}], search_engine=ConstantEngine())
    _, info = env.reset(seed=0)
    assert set(info) <= described
    for action in ("<search>a</search>", "<answer>A</answer>"):
        assert set(env.step(action)[4]) <= described
    env.close()
