"""The dispatcher: help, version, near misses, errors as one line, Ctrl-C."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from zerosearch_env import cli
from zerosearch_env.command_line import read_options
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import transcript_record
from zerosearch_env.types import Question


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], None]:
    """Registers a command called `probe` with the given main."""

    def register(main: Callable[[list[str]], int]) -> None:
        module = types.ModuleType("zerosearch_probe")
        module.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "zerosearch_probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("zerosearch_probe", "A probe.", "train"))

    return register


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in out
        assert command.summary in out


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("index", "build info"),
        ("index build", "bm25 dense"),
        ("bench", "dense serve"),
        ("simulator", "collect label tiny"),
    ],
)
@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_a_command_of_commands_lists_them(
    name: str, commands: str, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*name.split(), *argv]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: zerosearch {name} ")
    assert set(commands.split()) <= set(re.findall(r"^  (\w+) ", printed.out, re.MULTILINE))
    assert f"zerosearch {name} " in printed.out.splitlines()[-1]
    assert printed.err == ""


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("index build dense", "--encoder STR"),
        ("index build bm25", "--output PATH"),
        ("index info", "PATH"),
        ("view", "PATH"),
        ("plan", "STR"),
        ("simulator label", "--input [PATH"),
        ("simulator evaluate", "--engine STR"),
    ],
)
def test_a_missing_argument_is_named(command: str, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(command.split())
    assert stop.value.code == 2
    message = " ".join(re.sub(r"[^\x00-\x7f]", " ", capsys.readouterr().err).split())
    assert f"Missing from zerosearch {command}: {missing} " in message
    assert f"run: zerosearch {command} --help" in message


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zerosearch-env {importlib.metadata.version('zerosearch-env')}\n"


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "--steps", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("zerosearch: error: unknown command 'trian'. Did you mean 'train'?")
    assert captured.err.count("\n") == 1


def test_arguments_and_status_pass_through(command: Callable[..., None]) -> None:
    seen: list[str] = []
    command(lambda argv: seen.extend(argv) or 7)
    assert cli.main(["probe", "--a", "1"]) == 7
    assert seen == ["--a", "1"]


def test_own_errors_are_one_line(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> int:
        raise ConfigError("first line\n  second line")

    command(fail)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "zerosearch: error: first line second line\n"


def test_own_errors_with_traceback(command: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise ConfigError("wrong")

    command(fail)
    monkeypatch.setenv("ZEROSEARCH_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="wrong"):
        cli.main(["probe"])


def test_an_error_line_has_no_terminal_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["view", "\x1b[31mred\x1b]0;title\x07\u202e.jsonl"]) == 2
    err = capsys.readouterr().err.removesuffix("\n")
    assert "red" in err
    assert err.isprintable()


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcripts = tmp_path / "transcripts.jsonl"
    episode = Episode(Question("q", "Who?", ("Ada",)), make_rules())
    transcripts.write_text(json.dumps(transcript_record(episode)))
    for output in (transcripts / "page.html", Path("/proc/nowhere/page.html"), tmp_path):
        assert cli.main(["view", str(transcripts), "-o", str(output)]) == 2
        err = capsys.readouterr().err
        assert re.fullmatch(r"zerosearch: error: /\S+: .*\n", err), err


@pytest.mark.parametrize(
    "text", ['{"schema_version": 1, "cells": []}', '{\n "schema_version": 1,\n "cells": []\n}\n', "[]"]
)
def test_view_of_another_file_says_what_it_expects(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    results.write_text(text)
    assert cli.main(["view", str(results)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "transcript" in err


def test_other_errors_keep_their_traceback(command: Callable[..., None]) -> None:
    def fail(argv: list[str]) -> int:
        raise RuntimeError("a bug")

    command(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["probe"])


def test_ctrl_c(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.main(["probe"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_reader_gone() -> None:
    """`zerosearch COMMAND | head -1` ends without a traceback."""
    code = "import sys, zerosearch_env.cli as c; c.help_text = lambda: 'x\\n' * 200_000; sys.exit(c.main(['--help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_missing_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zerosearch_broken_probe.py").write_text("import a_library_that_nobody_has.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("zerosearch_broken_probe", "A probe.", "train"))
    assert cli.main(["probe"]) == 2
    err = capsys.readouterr().err
    assert "'a_library_that_nobody_has'" in err
    assert 'pip install "zerosearch-env[train]"' in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_loads(name: str) -> None:
    """The table names real modules with a `main`."""
    assert callable(cli.COMMANDS[name].load(name))


def test_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    cli.main(["--version"])
    assert cli.os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert cli.os.environ["TOKENIZERS_PARALLELISM"] == "true"


@dataclass(frozen=True)
class _Shared:
    shared: int = 1
    """An option of several commands."""


@dataclass(frozen=True)
class _Options(_Shared):
    name: str = "n"
    """The first line of a text whose second line
    is indented in the source: 'a', "b"
    (c)."""
    mode: Literal["one", "two"] = "one"
    """What the command does."""


def test_options_are_read_and_their_help_lists_a_commands_own_ones_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--name", "x", "--shared", "3"]
    assert read_options(_Options, argv, "zerosearch x") == _Options(shared=3, name="x")
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        read_options(_Options, ["--help"], "zerosearch x", description="What it is for.")
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "What it is for." in shown
    assert "whose second line is indented in the source: 'a', \"b\" (c). (default: n)" in shown
    assert shown.index("--name") < shown.index("--mode {one,two}") < shown.index("--shared")


@dataclass(frozen=True)
class _Several:
    number: int | None = None
    """A number."""
    names: tuple[str, ...] = ("a", "b")
    """Names."""


def test_a_help_does_not_import_typeguard(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "typeguard", raising=False)
    with pytest.raises(SystemExit):
        read_options(_Several, ["--help"], "zerosearch x")
    assert "(default: a b)" in capsys.readouterr().out
    assert "typeguard" not in sys.modules
    assert read_options(_Several, ["--names", "c"], "zerosearch x") == _Several(names=("c",))
