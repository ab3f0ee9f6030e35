r"""`zerosearch ask`: one question of your own to an agent, whose turns are shown as it takes them.

    zerosearch ask --agent runs/quickstart/policy "Where was the author of The Glass Harbour born?"
    zerosearch ask --agent openai:http://127.0.0.1:8000/v1 --engine serper "Who won the cup in 1994?"

The question needs no gold answers. Without them nothing is scored, and noise is refused: noisy documents must not hold
the answer, which only somebody who knows it can check.

Exit status: 0, 3 if the agent or the engine failed, 2 after any other error.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from zerosearch_env.command_line import read_options
from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.base import check_corpus, try_engine
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.episode import Episode, Outcome
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.rules import Rules
from zerosearch_env.records.terminal import make_console, print_new
from zerosearch_env.records.transcripts import TranscriptWriter, transcript_record
from zerosearch_env.types import ActionKind, Question, SearchResult, Step, StopReason

from ..players.builtin.scripted import OraclePlayer
from ..players.options import PlayConfig


@dataclass(frozen=True)
class AskConfig(PlayConfig):
    """Ask an agent one question of your own, with any search engine, and watch its turns."""

    question: tyro.conf.Positional[str] = ""
    """The question."""
    agent: str | None = None
    """The agent, as in `zerosearch eval`: a policy directory ("tiny" is the shipped base model), openai:URL, your own
    file.py:callable, ..."""
    tool_agent: str | None = None
    """Instead of --agent: an agent that owns its loop, file.py:callable with `callable(question, search) -> answer`."""
    engine: str = "corpus"
    """The search engine, as in `zerosearch eval`; "corpus" searches the passages of --dataset."""
    split: str = "test"
    """Split of the dataset."""
    answers: tuple[str, ...] = ()
    """Gold answers, if you know any: the answer is then scored, and --noise is possible."""
    noise: float = 0.0
    """Probability in [0, 1] that a search is noisy; above 0 it needs --answers."""
    transcripts: Path | None = None
    """Append the episode to this JSONL file (open it with `zerosearch view`)."""


def main(argv: list[str] | None = None) -> int:
    """Parse the options, play the question and print the turns.

    Returns:
        The exit status: 0, or 3 if the agent or the engine failed.
    """
    config = read_options(AskConfig, sys.argv[1:] if argv is None else argv, "zerosearch ask", description=__doc__)
    episode = ask(config)
    failed = episode.stop_reason is not None and episode.stop_reason.failed
    return AgentError.exit_status if failed else 0


def ask(config: AskConfig) -> Episode:
    """Play one question and print each turn on standard output.

    Returns:
        The finished episode.

    Raises:
        ConfigError: an option is invalid.
        AgentError: the agent failed, and `on_agent_error` is "stop".
    """
    if not config.question.strip():
        raise ConfigError('no question given, for example: zerosearch ask --agent tiny "Who wrote The Glass Harbour?"')
    agents, tool_agents = ([spec] if spec else [] for spec in (config.agent, config.tool_agent))
    if len(agents) + len(tool_agents) != 1:
        how_many = "two agents" if agents else "no agent"
        raise ConfigError(f"{how_many} given: pass one with --agent or --tool-agent, for example --agent tiny")
    if check_level(config.noise) > 0 and not config.answers:
        raise ConfigError(
            f"noise {config.noise:g} needs gold answers: without them noisy documents cannot be kept free of the "
            "answer. Pass --answers, or leave --noise out"
        )
    question = Question("asked", config.question, config.answers)
    with contextlib.ExitStack() as stack:
        # One episode needs no worker processes.
        (player,) = replace(config, workers=1).make_players(agents, stack, tool_agents)
        if isinstance(player, OraclePlayer) and not config.answers:
            raise ConfigError(f"{player.name} sees the gold answers: pass --answers, or ask another agent")
        rules = replace(player.rules_for(config.make_rules()), answers_required=False)
        check_prompts(rules, [question])
        engine = make_engine(config.engine, dataset=config.load_dataset(config.split))
        stack.callback(engine.close)
        check_corpus(engine, [question], rules.top_k, noise=config.noise > 0)
        try_engine(engine, [question], rules.top_k)
        console = make_console()
        for note in player.notes(config.make_rules()):
            console.print(note, style="dim")
        shown = 0

        def show(episode: Episode) -> None:
            nonlocal shown
            if shown > max(1, len(episode.turns)):  # it has begun again, after a failure
                shown = 1
            shown = print_new(transcript_record(episode), shown, show_noise=bool(config.answers))

        episode = ShownEpisode(question, rules, noise_level=config.noise, seed=config.seed, show=show)
        show(episode)
        player.play([episode], engine)
        if config.transcripts is not None:
            with TranscriptWriter(config.transcripts) as writer:
                writer.write(transcript_record(episode, agent=player.name, engine=config.engine))
    return episode


class ShownEpisode(Episode):
    """An episode that calls a function after each of its turns.

    Args:
        question: the question.
        rules: the rules.
        noise_level: see `Episode`.
        seed: see `Episode`.
        show: called with the episode after each turn.
    """

    __slots__ = ("_show",)

    def __init__(
        self, question: Question, rules: Rules, *, noise_level: float, seed: int, show: Callable[[Episode], None]
    ) -> None:
        super().__init__(question, rules, noise_level=noise_level, seed=seed)
        self._show = show

    def advance(self, action_text: str) -> Outcome:
        """See `Episode.advance`."""
        return self._after(super().advance(action_text))

    def advance_action(self, kind: ActionKind, content: str, text: str | None = None) -> Outcome:
        """See `Episode.advance_action`."""
        return self._after(super().advance_action(kind, content, text))

    def observe(self, result: SearchResult | Sequence[SearchResult]) -> Step:
        """See `Episode.observe`."""
        step = super().observe(result)
        self._show(self)
        return step

    def stop(self, reason: StopReason, action_text: str = "", error: str | None = None) -> Step:
        """See `Episode.stop`."""
        step = super().stop(reason, action_text, error)
        self._show(self)
        return step

    def _after(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Step):
            self._show(self)
        return outcome
