"""`zerosearch mcp`: a server with the tools `search` and `answer`, for agents that speak the Model Context Protocol.

    zerosearch mcp --question 7 --noise-level 0.5 --output mcp.jsonl              # on stdin and stdout
    zerosearch mcp --question 7 --noise-level 0.5 --output mcp.jsonl --http 8001  # at http://127.0.0.1:8001/mcp

One server plays one episode. Whoever starts it chooses the question and the noise, and reads the scores; the agent gets
neither. With the same seed the draws are those of `zerosearch eval`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ..command_line import read_options, signals_handled
from ..datasets.options import ReadingOptions
from ..datasets.world.make import WorldConfig
from ..engines import SearchEngine, make_engine
from ..engines.base import check_corpus, try_engine
from ..envs.session import Session
from ..errors import AgentError, ConfigError, EngineError, EpisodeError, MissingExtraError, require
from ..game.noise import check_level
from ..game.rules import make_rules
from ..integrations.tool_texts import ANSWER, SEARCH
from ..randomness import mix
from ..records.transcripts import TranscriptWriter, transcript_record
from ..serve.access import address_of, open_socket
from ..types import Dataset, StopReason

if TYPE_CHECKING:
    from mcp.server import MCPServer

_INSTRUCTIONS = """Answer this question: {question}

Use the tool `search` to find out what you do not know, at most {searches} times. Documents can be misleading. Then
call the tool `answer` once, with the answer alone, in a few words."""


@dataclass(frozen=True)
class MCPConfig(ReadingOptions):
    """Serve one question as an MCP server with the tools search and answer, and score the answer."""

    question: str
    """The question: its id, or its index in the dataset (from 0)."""
    dataset: str = "world"
    """The built-in world ("world"), a file, a folder, or a hub name; several with commas, weights as in A=2,B=1."""
    split: str = "test"
    """Split of the dataset."""
    engine: str = "corpus"
    """The search engine: "corpus", "corpus:FILE", your own file.py:attribute or module:attribute, or with options as
    JSON: '{"kind": "simulated:tiny", "temperature": 0.5}'."""
    noise_level: float = 0.0
    """Probability in [0, 1] that a search is noisy."""
    noise_unit: Literal["search", "document"] = "search"
    """Whether noise is drawn once per search or once per document."""
    seed: int = 0
    """Random seed of the noise draws: they are those of zerosearch eval with the same seed."""
    max_turns: int | None = None
    """Number of searches. None: 5."""
    top_k: int | None = None
    """Documents per search. None: 5."""
    http: int | None = None
    """Port of 127.0.0.1 on which to serve streamable HTTP, at /mcp; 0 picks a free one. None: stdin and stdout."""
    output: Path | None = None
    """Append the transcript with the scores to this JSONL file when the episode ends (open it with zerosearch view)."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zerosearch mcp` until its client leaves (stdin ends) or, with HTTP, until SIGINT or SIGTERM.

    Args:
        argv: the arguments after the command's name; None: the arguments of the process.

    Returns:
        Exit code: 0, or 3 if the search engine failed.

    Raises:
        ZeroSearchError: an option is invalid, or a library is missing.
    """
    config = read_options(MCPConfig, argv, "zerosearch mcp")
    _require_mcp()
    with contextlib.ExitStack() as stack:
        listener = None if config.http is None else stack.enter_context(open_socket("127.0.0.1", config.http))
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the protocol
            game = make_game(config)
        stack.callback(game.end)
        server = make_server(game)
        if listener is None:
            with signals_handled(game.exit_now):
                server.run("stdio")  # meanwhile, what is printed goes to stderr
        else:
            import uvicorn

            print(f"zerosearch mcp: {address_of(listener)}/mcp (Ctrl-C stops it)", file=sys.stderr, flush=True)
            options = uvicorn.Config(server.streamable_http_app(), log_level="warning", log_config=None)
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(uvicorn.Server(options).serve(sockets=[listener]))
    return game.exit_status


def make_game(config: MCPConfig) -> Game:
    """The episode that the options describe.

    Raises:
        ConfigError: an option is invalid, or there is no such question.
        DataError: a data file is missing or broken.
    """
    level = check_level(config.noise_level)
    rules = make_rules(max_turns=config.max_turns, top_k=config.top_k, noise_unit=config.noise_unit)
    dataset = config.load(config.dataset, config.split, world=config.world)
    index = _find(dataset, config.question)
    question = dataset.questions[index]
    engine = make_engine(config.engine, dataset=dataset)
    with contextlib.ExitStack() as if_refused:
        if_refused.callback(engine.close)
        check_corpus(engine, [question], rules.top_k, noise=level > 0)
        try_engine(engine, [question], rules.top_k)
        if_refused.pop_all()
    session = Session(question, rules, engine, noise_level=level, seed=mix(config.seed, index))
    return Game(session, engine, index, config.output)


class Game:
    """An episode that is played by the tools of a server, and reported once when it is over.

    Args:
        session: the episode.
        engine: its engine, which is closed at the end.
        index: index of its question, for the transcript.
        output: the file of the transcript; None: none is written.
    """

    def __init__(self, session: Session, engine: SearchEngine, index: int, output: Path | None) -> None:
        self.session = session
        self._engine = engine
        self._index = index
        self._output = output
        self._turn = asyncio.Lock()
        self._reported = False

    @property
    def exit_status(self) -> int:
        """0, or 3 if the search engine failed."""
        reason = self.session.episode.stop_reason
        return AgentError.exit_status if reason is not None and reason.failed else 0

    async def search(self, query: str) -> str:
        """Search; searches at the same time are played one after another.

        Raises:
            EpisodeError: no documents come back; see `Session.search`.
            EngineError: the engine failed.
        """
        return await self._play(self.session.asearch_text(query))

    async def answer(self, text: str) -> str:
        """Answer. The score is not told.

        Raises:
            EpisodeError: see `Session.answer`.
        """
        return await self._play(self.session.aanswer_text(text))

    def end(self) -> None:
        """End the episode, if the agent has left without an answer."""
        if not self.session.done:
            self.session.stop(StopReason.MAX_TURNS)
        self._report()
        self._engine.close()

    async def _play(self, action: Awaitable[str]) -> str:
        async with self._turn:
            try:
                return await action
            finally:
                if self.session.done:
                    self._report()

    def exit_now(self) -> NoReturn:
        """End the process. The library waits for stdin in a thread that cannot be interrupted."""
        self.end()
        os._exit(self.exit_status)

    def _report(self) -> None:
        """Write the transcript and the scores, once: as soon as they exist, since a server may be killed."""
        if self._reported:
            return
        self._reported = True
        episode, scores = self.session.episode, self.session.scores
        assert scores is not None  # the episode is over
        if self._output is not None:
            with contextlib.closing(TranscriptWriter(self._output)) as writer:
                writer.write(transcript_record(episode, agent="mcp", index=self._index))
        answer = "no answer" if scores.prediction is None else f"answer {scores.prediction!r}"
        error = episode.turns[-1].step.error
        outcome = f"EM {scores.em:.2f}, F1 {scores.f1:.2f}" if error is None else error
        print(f"zerosearch mcp: {answer} after {scores.searches} searches: {outcome}", file=sys.stderr, flush=True)


# Any: MCPServer is generic in a type that does not matter here
def make_server(game: Game) -> MCPServer[Any]:
    """The MCP server over an episode: the tools `search` and `answer`, and the question as instructions and prompt."""
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    episode = game.session.episode
    task = _INSTRUCTIONS.format(question=episode.question.text, searches=episode.rules.max_turns)
    server: MCPServer[Any] = MCPServer("zerosearch", instructions=task, log_level="ERROR")

    @contextlib.contextmanager
    def told() -> Iterator[None]:
        """Errors whose message the agent reads; any other error would be hidden from it."""
        try:
            yield
        except (EpisodeError, EngineError) as error:
            raise ToolError(str(error)) from error

    @server.prompt()
    def question() -> str:
        """The question to answer."""
        return task

    @server.tool(description=SEARCH.docstring)
    async def search(query: str) -> str:
        with told():
            return await game.search(query)

    @server.tool(description=ANSWER.docstring)
    async def answer(text: str) -> str:
        with told():
            return await game.answer(text)

    return server


def _require_mcp() -> None:
    """Check that the library is there, in a version with the API that is used.

    Raises:
        MissingExtraError: it is missing or too old.
    """
    if not hasattr(require("mcp.server"), "MCPServer"):
        raise MissingExtraError(
            f"mcp 2 or newer is needed here, but {importlib.metadata.version('mcp')} is installed. "
            'Install it with: pip install "zerosearch-env[mcp]"'
        )


def _find(dataset: Dataset, question: str) -> int:
    """The index of a question, given by its id or its index.

    Raises:
        ConfigError: there is no such question.
    """
    index = next((index for index, other in enumerate(dataset.questions) if other.id == question), None)
    if index is None and question.isdecimal() and int(question) < len(dataset.questions):
        index = int(question)
    if index is None:
        raise ConfigError(
            f"no question {question!r} in {dataset.name}/{dataset.split}: expected an index from 0 to "
            f"{len(dataset.questions) - 1}, or an id such as {dataset.questions[0].id!r}."
        )
    return index
