"""`zerosearch play`: a person plays the policy in the terminal, sees the documents, the noise and the score."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from .. import ENV_ID
from ..envs.single import ZeroSearchEnv
from ..records.terminal import Line, blocks, make_console, rich_block
from ..records.transcripts import transcript_record

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_NOISE = 0.25

_HELP = [
    "some words        search for them",
    "=Ada Lovelace     answer",
    "<...>             a raw turn of the protocol, sent as it is",
    ":prompt           the prompt as a policy sees it",
    ":skip             the next question",
    ":help             this list",
    ":quit             stop (so does Ctrl-D)",
]


@dataclass(frozen=True)
class PlayConfig:
    """Play the policy yourself: search, read, answer."""

    dataset: str = "world"
    """Built-in "world", the path of a .jsonl or .parquet file, or a hub name."""
    split: str = "test"
    """Split of the dataset."""
    search_engine: str = "corpus"
    """What answers your searches: "corpus", "corpus:FILE", ..."""
    noise_level: float | None = None
    """Probability in [0, 1] that a search misses. Without it and without a schedule: 0.25."""
    noise_schedule: str | None = None
    """A curriculum ("exp", "linear", "constant") instead of a fixed level; it moves with the questions you finish."""
    curriculum_episodes: int = 20
    """Questions until a schedule reaches its end."""
    noise_unit: str = "search"
    """What one draw decides: a whole "search" or each "document"."""
    protocol: str = "zerosearch"
    """The tag grammar of a turn; you can play every one of them without typing its tags."""
    max_turns: int | None = None
    """Searches allowed before the last turn. None: the protocol's own."""
    top_k: int | None = None
    """Documents a search. None: the protocol's own."""
    seed: int | None = None
    """Seed of questions and noise. None: another one each time."""
    hide_noise: bool = False
    """Do not say which documents are noisy, nor how high the level is: as hard as it is for a policy."""
    transcripts: Path | None = None
    """Append every finished episode to this JSONL file (look at it with `zerosearch view`)."""


@dataclass
class _Game:
    """What the loop keeps: the environment, the console, and the scores so far."""

    env: gymnasium.Env[str, str]
    base: ZeroSearchEnv
    console: Console
    show_noise: bool
    interactive: bool
    scores: list[float] = field(default_factory=list)

    def say(self, style: str, text: str, indent: int = 0) -> None:
        self.console.print(rich_block([Line(style, text, indent)]))

    def ask(self, prompt: str) -> str:
        """One line from the person; when the input is a pipe the line is echoed, so that the output reads well."""
        self.console.print(prompt, style="bold", end="")
        self.console.file.flush()
        line = sys.stdin.readline() if not self.interactive else input()
        if not self.interactive:
            if not line:
                raise EOFError
            self.console.print(line.rstrip("\n"))
        return line.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch play`.

    Args:
        argv: command line without the command itself; None: that of the process.

    Returns:
        Exit code: 0, or 130 after Ctrl-C.

    Raises:
        ZeroSearchError: an option cannot be used.
    """
    import tyro

    config = tyro.cli(PlayConfig, args=None if argv is None else list(argv), prog="zerosearch play")
    env = make_env(config)
    base = env.unwrapped
    assert isinstance(base, ZeroSearchEnv)
    game = _Game(env, base, make_console(), not config.hide_noise, sys.stdin.isatty())
    if game.interactive:
        _enable_line_editing()
    try:
        _play(game, secrets.randbits(32) if config.seed is None else config.seed)
    except KeyboardInterrupt:
        game.console.print()
        return 130
    except EOFError:
        game.console.print()
        _farewell(game)
    finally:
        env.close()
    return 0


def make_env(config: PlayConfig) -> gymnasium.Env[str, str]:
    """The environment that a configuration describes, with a recorder where one is asked for.

    Raises:
        ConfigError: an option cannot be used.
    """
    level = config.noise_level
    if level is None and config.noise_schedule is None:
        level = _DEFAULT_NOISE
    env: gymnasium.Env[str, str] = gymnasium.make(
        ENV_ID,
        dataset=config.dataset,
        split=config.split,
        search_engine=config.search_engine,
        noise_level=level,
        noise_schedule=config.noise_schedule,
        noise_unit=config.noise_unit,
        curriculum_episodes=config.curriculum_episodes,
        protocol=config.protocol,
        max_turns=config.max_turns,
        top_k=config.top_k,
    )
    if config.transcripts is None:
        return env
    from ..envs.wrappers import TranscriptRecorder

    return TranscriptRecorder(env, config.transcripts, extra={"agent": "human"})


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  (importing it gives input() history and cursor keys)
    except ImportError:  # not on every platform; typing works without
        return


def _play(game: _Game, seed: int) -> None:
    """Question after question, until the person has enough."""
    game.say("head", "You are the policy. Type a search, =ANSWER to answer, :help for more.")
    reset_seed: int | None = seed
    while True:
        _, info = game.env.reset(seed=reset_seed)
        reset_seed = None
        game.console.print()
        _show_question(game, info)
        if not _play_episode(game):
            break
        if game.interactive and not _again(game):
            break
    _farewell(game)


def _show_question(game: _Game, info: dict[str, Any]) -> None:
    game.console.rule(style="dim")
    game.say("head", info["question"])
    note = f"{game.base.rules.max_turns} searches, {game.base.rules.top_k} documents each"
    if game.show_noise:
        note += f" · noise level {info['noise_level']:.2f}"
    game.say("note", note)


def _play_episode(game: _Game) -> bool:
    """One question; False when the person quits."""
    while True:
        episode = game.base.episode
        turn, last = len(episode.turns) + 1, episode.rules.max_turns
        if episode.last_turn:
            game.say("bad", "Last turn: only an answer counts now.")
        line = game.ask(f"turn {turn}/{last} > " if not episode.last_turn else "answer > ")
        if line.startswith(":"):
            command = line[1:].strip().lower()
            if command in ("q", "quit", "exit"):
                return False
            if command in ("s", "skip", "next"):
                return True
            _run_command(game, command)
            continue
        if not line:
            continue
        action = to_action(game.base, line)
        if action is None:
            game.say("note", "An answer needs text after the '='.")
            continue
        _, _, terminated, truncated, info = game.env.step(action)
        record = transcript_record(game.base.episode)
        parts = blocks(record, show_noise=game.show_noise)
        if info["action"] == "search":
            parts[turn] = parts[turn][2:]  # the person knows what they typed
            game.console.print(rich_block(parts[turn]))
            if game.show_noise and info["answer_in_documents"]:
                game.say("good", "A gold answer stands in these documents.", 4)
        elif not info["stop_reason"]:
            game.console.print(rich_block(parts[turn]))
        if terminated or truncated:
            game.console.print(rich_block(parts[-1]))
            game.scores.append(info["em"])
            return True


def to_action(env: ZeroSearchEnv, line: str) -> str | None:
    """What a person typed as a turn of the protocol.

    Args:
        env: whose protocol is played.
        line: words to search for, `=answer`, or raw text that starts with `<`.

    Returns:
        The action, or None for an answer without text.
    """
    protocol = env.rules.protocol
    if line.startswith("="):
        answer = line[1:].strip()
        return protocol.render_answer(answer) if answer else None
    if line.startswith("<"):
        return line
    return protocol.render_search(line)


def _run_command(game: _Game, command: str) -> None:
    if command in ("prompt", "p"):
        game.say("note", game.base.episode.prompt)
        return
    if command not in ("help", "h", "?", ""):
        game.say("bad", f"There is no command :{command}.")
    for entry in _HELP:
        game.say("note", entry, 2)


def _again(game: _Game) -> bool:
    """Whether the person wants another question; Enter means yes."""
    return game.ask("Another question? [Y/n] ").lower() not in ("n", "no", ":q", ":quit", "q")


def _farewell(game: _Game) -> None:
    count = len(game.scores)
    if count:
        mean = sum(game.scores) / count
        game.say("head", f"{count} {'question' if count == 1 else 'questions'} finished, EM {mean:.2f}. Goodbye.")
    else:
        game.say("head", "Goodbye.")
