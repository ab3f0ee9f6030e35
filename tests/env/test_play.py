from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zerosearch_env.commands.play import PlayConfig, main, make_env, to_action
from zerosearch_env.envs.single import ZeroSearchEnv
from zerosearch_env.errors import ConfigError
from zerosearch_env.protocols import PROTOCOLS
from zerosearch_env.records.transcripts import read_transcripts


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "What is the capital of France?", "answers": ["Paris"]}\n')
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [f'{{"id": "{i}", "contents": "\\"Page {i}\\"\\nNotes about town {i} and river {i}."}}' for i in range(60)]
    path.write_text("\n".join(rows) + "\n")
    return path


def play(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return main(["--seed", "1", *arguments])


def test_escapes_never_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "hostile.jsonl"
    data.write_text(json.dumps({"question": "Who \x1b[31mwrote\x1b]0;own\x07 it\u202e?", "answers": ["\x1b[2Jx"]}))
    engine = ("--search-engine", f"corpus:{corpus}")
    assert play(monkeypatch, "a \x1b[31m query\n:prompt\n:\x1b[31m\n=x\x1b[2J\n", "--dataset", str(data), *engine) == 0
    shown = capsys.readouterr().out
    assert "wrote" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_a_whole_game_from_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    questions: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    transcripts = tmp_path / "t.jsonl"
    typed = "town 3\nnothing\n<no tag>\n\n=\n:prompt\n:help\n:nonsense\n= paris\n=Lyon\n:skip\n:quit\n"
    code = play(
        monkeypatch,
        typed,
        *("--dataset", str(questions), "--split", "train", "--search-engine", f"corpus:{corpus}"),
        *("--noise-level", "1", "--transcripts", str(transcripts)),
    )
    assert code == 0
    shown = capsys.readouterr().out
    assert shown.count("What is the capital of France?") >= 4  # four questions, and the prompt
    for part in (
        "noise level 1.00",
        "turn 1/5 > town 3",
        "(noisy)",
        "An answer needs text",
        "Unknown command :nonsense.",
        "answer: paris",
        "EM 1 ·",
        "answer: Lyon",
        "gold: Paris",
        "2 questions finished, EM 0.50. Goodbye.",
    ):
        assert part in shown, part
    records = list(read_transcripts(transcripts))
    assert [record["scores"]["em"] for record in records] == [1.0, 0.0]
    assert records[0]["extra"] == {"agent": "human"}


def test_kinds_of_noise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], questions: Path, corpus: Path
) -> None:
    arguments = ("--dataset", str(questions), "--search-engine", f"corpus:{corpus}", "--noise-level", "1")
    assert play(monkeypatch, "town 3\n", *arguments, "--noise-kind", "outage") == 0
    shown = capsys.readouterr().out
    assert "noise level 1.00 (outage)" in shown
    assert "no documents" not in shown  # but the words of the failed tool
    assert "town 3 and river 3" not in shown


def test_the_end_of_the_input_ends_politely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], questions: Path, corpus: Path
) -> None:
    arguments = ("--dataset", str(questions), "--search-engine", f"corpus:{corpus}", "--hide-noise", "--max-turns", "1")
    assert play(monkeypatch, "town 3\n", *arguments) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("Goodbye.\n") or shown.rstrip().endswith("Goodbye.")
    assert "Last turn: only an answer counts now." in shown
    assert "noise level" not in shown
    assert "noisy" not in shown


def test_plain_words_answer_in_the_last_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], questions: Path, corpus: Path
) -> None:
    arguments = ("--dataset", str(questions), "--search-engine", f"corpus:{corpus}", "--max-turns", "1")
    assert play(monkeypatch, "town 3\n paris \ntown 4\n=Lyon\ntown 5\n<answer>Paris</answer>\n", *arguments) == 0
    shown = capsys.readouterr().out
    assert [line.split()[-1] for line in shown.splitlines() if "  answer: " in line] == ["paris", "Lyon", "Paris"]
    assert "3 questions finished, EM 0.67. Goodbye." in shown


def test_a_wrong_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'zerosearch'"):
        play(monkeypatch, "", "--protocol", "zerosearc")


def test_the_default_noise_level_gives_way_to_a_schedule() -> None:
    env = make_env(PlayConfig())
    assert env.reset(seed=0)[1]["noise_level"] == 0.25
    env = make_env(PlayConfig(noise_schedule="linear"))
    assert env.reset(seed=0)[1]["noise_level"] == 0.0


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_what_is_typed_becomes_a_turn_of_every_protocol(protocol: str) -> None:
    base = make_env(PlayConfig(protocol=protocol)).unwrapped
    assert isinstance(base, ZeroSearchEnv)
    parse = PROTOCOLS[protocol].parse
    search, answer = to_action(base, "two words"), to_action(base, "= Paris ")
    assert search is not None
    assert answer is not None
    assert (parse(search).kind, parse(search).content) == ("search", "two words")
    assert (parse(answer).kind, parse(answer).content) == ("answer", "Paris")
    assert to_action(base, "<raw>") == "<raw>"
    assert to_action(base, "=  ") is None


# A shell starts background jobs, and so perhaps this test, with SIGINT ignored; Python then keeps it so.
PLAY = """
import signal, sys
from zerosearch_env.commands.play import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_terminal_gets_another_question_and_ctrl_c_ends_with_130(questions: Path, corpus: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", PLAY),
            *("--dataset", str(questions), "--search-engine", f"corpus:{corpus}"),
        ],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(follower)
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 60
        while text not in seen:
            assert time.monotonic() < end, seen
            try:
                seen += os.read(leader, 4096)
            except OSError:
                raise AssertionError(seen) from None
        seen = seen[seen.index(text) + len(text) :]

    try:
        wait_for(b"turn 1/5 > ")
        os.write(leader, b"=Paris\n")
        wait_for(b"Another question? [Y/n]")
        os.write(leader, b"\n")
        wait_for(b"turn 1/5 > ")
        # Once is enough, but for one that comes between the prompt and the waiting: input() sees it at the next one.
        # The terminal has to be read meanwhile: readline restores it only when its output has drained.
        end, again = time.monotonic() + 60, 0.0
        while process.poll() is None and time.monotonic() < end:
            if time.monotonic() >= again:
                os.kill(process.pid, signal.SIGINT)
                again = time.monotonic() + 10
            if select.select([leader], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    seen += os.read(leader, 4096)
        assert process.poll() == 130, seen
    finally:
        process.kill()
        process.wait()
        rest = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:
                break
            if not part:
                break
            rest += part
        os.close(leader)
    assert b"Traceback" not in seen + rest
