"""`zerosearch play`: a person plays the policy in the terminal and sees the documents, the noise and the score."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from .. import ENV_ID
from ..command_line import read_options
from ..datasets.options import ReadingOptions
from ..envs.single import ZeroSearchEnv
from ..game.noise_kinds import DISTRACTOR
from ..records.html import clean
from ..records.terminal import Line, blocks, make_console, rich_block
from ..records.transcripts import transcript_record

if TYPE_CHECKING:
    from rich.console import Console

_DEFAULT_NOISE = 0.25

_HELP = [
    "some words        search for them",
    "=Ada Lovelace     answer (in the last turn the = may be left out)",
    "<...>             send a raw turn of the protocol, unchanged",
    ":prompt           show the prompt that a policy sees",
    ":skip             go to the next question",
    ":help             show this list",
    ":quit             stop (Ctrl-D works too)",
]


@dataclass(frozen=True)
class PlayConfig(ReadingOptions):
    """Play the policy yourself: search, read, answer."""

    dataset: str = "world"
    """The built-in "world", the path of a file or folder, or a hub name; several with commas."""
    split: str = "test"
    """Split of the dataset."""
    search_engine: str = "corpus"
    """The search engine: "corpus", "corpus:FILE", your own file.py:attribute or module:attribute, or with options as
    JSON: '{"kind": "simulated:tiny", "temperature": 0.5}'."""
    noise_level: float | None = None
    """Probability in [0, 1] that a search is noisy. None: 0.25, unless a schedule is given."""
    noise_schedule: str | None = None
    """A curriculum ("exp", "linear", "constant", or your own file.py:function) instead of a fixed level; it advances
    with every finished question."""
    curriculum_episodes: int = 20
    """Number of questions until a schedule reaches its end."""
    noise_unit: str = "search"
    """Draw noise once per "search" or once per "document"."""
    noise_kind: tuple[str, ...] = ("distractor",)
    """What noisy searches return (docs/noise.md): a kind such as "counterfactual", or a mixture such as
    "distractor=0.5,empty=0.5". Several are stages over `curriculum_episodes` questions."""
    protocol: str = "zerosearch"
    """The tag grammar of a turn: a name, or your own file.py:attribute. You do not need to type the tags yourself."""
    prompt_template: str | None = None
    """The instruction: a text or a file that contains {question}, or "dataset" for the prompts in the rows of the
    dataset. None: the protocol's default."""
    invalid_notice: str = "own"
    """What follows an invalid turn: "own" (this package's words), "reference" (as published), "none", or a text."""
    last_turn_notice: str = "own"
    """The text before the last turn: "own", "reference", "none", or a text."""
    max_turns: int | None = None
    """Number of turns that may search before the last turn. None: the protocol's default."""
    top_k: int | None = None
    """Documents per search. None: the protocol's default."""
    seed: int | None = None
    """Seed of questions and noise. None: a random seed."""
    hide_noise: bool = False
    """Hide the noise level and which documents are noisy, so that you see only what a policy sees."""
    transcripts: Path | None = None
    """Append every finished episode to this JSONL file (open it with `zerosearch view`)."""


@dataclass
class _Game:
    """State of the game loop: the environment, the console, and the scores so far."""

    env: gymnasium.Env[str, str]
    base: ZeroSearchEnv
    console: Console
    show_noise: bool
    interactive: bool
    scores: list[float] = field(default_factory=list)

    def say(self, style: str, text: str, indent: int = 0) -> None:
        self.console.print(rich_block([Line(style, clean(text), indent)]))

    def ask(self, prompt: str) -> str:
        """Read one line from the player. If the input is a pipe, the line is echoed to keep the output readable."""
        self.console.print(prompt, style="bold", end="")
        self.console.file.flush()
        line = sys.stdin.readline() if not self.interactive else input()
        if not self.interactive:
            if not line:
                raise EOFError
            self.console.print(clean(line.rstrip("\n")))
        return line.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch play`.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code: 0, or 130 after Ctrl-C.

    Raises:
        ZeroSearchError: an option is invalid.
    """
    config = read_options(PlayConfig, argv, "zerosearch play")
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
    """Create the environment for a configuration, with a recorder if `transcripts` is set.

    Raises:
        ConfigError: an option is invalid.
    """
    level = config.noise_level
    if level is None and config.noise_schedule is None:
        level = _DEFAULT_NOISE
    env: gymnasium.Env[str, str] = gymnasium.make(
        ENV_ID,
        dataset=config.dataset,
        split=config.split,
        on_bad_row=config.on_bad_row,
        columns=config.column_names,
        search_engine=config.search_engine,
        noise_level=level,
        noise_schedule=config.noise_schedule,
        noise_unit=config.noise_unit,
        noise_kind=config.noise_kind,
        curriculum_episodes=config.curriculum_episodes,
        protocol=config.protocol,
        prompt_template=config.prompt_template,
        invalid_notice=config.invalid_notice,
        last_turn_notice=config.last_turn_notice,
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
    except ImportError:  # not available on every platform; input() also works without it
        return


def _play(game: _Game, seed: int) -> None:
    """Play questions until the player quits."""
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
        kinds = game.base.episode.noise_kinds
        note += f" · noise level {info['noise_level']:.2f}{'' if kinds == DISTRACTOR else f' ({kinds})'}"
    game.say("note", note)


def _play_episode(game: _Game) -> bool:
    """Play one question. Returns False if the player quits."""
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
        action = to_action(game.base, line if not episode.last_turn or line[0] in "=<" else f"={line}")
        if action is None:
            game.say("note", "An answer needs text after the '='.")
            continue
        _, _, terminated, truncated, info = game.env.step(action)
        record = transcript_record(game.base.episode)
        parts = blocks(record, show_noise=game.show_noise)
        if info["action"] == "search":
            parts[turn] = parts[turn][2:]  # drop the lines that repeat the player's input
            game.console.print(rich_block(parts[turn]))
            if game.show_noise and info["answer_in_documents"]:
                game.say("good", "These documents contain a gold answer.", 4)
        elif not info["stop_reason"]:
            game.console.print(rich_block(parts[turn]))
        if terminated or truncated:
            game.console.print(rich_block(parts[-1]))
            game.scores.append(info["em"])
            return True


def to_action(env: ZeroSearchEnv, line: str) -> str | None:
    """Convert a typed line to a turn of the protocol.

    Args:
        env: the environment that defines the protocol.
        line: words to search for, `=answer`, or a raw turn that starts with `<`.

    Returns:
        The action, or None if the answer is empty.
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
        game.say("bad", f"Unknown command :{command}.")
    for entry in _HELP:
        game.say("note", entry, 2)


def _again(game: _Game) -> bool:
    """Ask whether the player wants another question; Enter means yes."""
    return game.ask("Another question? [Y/n] ").lower() not in ("n", "no", ":q", ":quit", "q")


def _farewell(game: _Game) -> None:
    count = len(game.scores)
    if count:
        mean = sum(game.scores) / count
        game.say("head", f"{count} {'question' if count == 1 else 'questions'} finished, EM {mean:.2f}. Goodbye.")
    else:
        game.say("head", "Goodbye.")
