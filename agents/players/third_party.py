"""Third-party agents as players: any function `(observation, info) -> text of one turn`, sync or async.

An agent sees what the environment shows a policy, and nothing about the setup of the experiment: no gold answer, noise
level, `noisy` or `answer_in_documents`, no scores or passage ids of documents, and no id of the question's row.

A failure of the agent's code (an exception, `sys.exit`, a result that is not a string, the time limit) is an
`AgentError`. `AgentOptions.on_error` says what follows. A failed episode ends with `StopReason.AGENT_ERROR`: it is
counted and recorded, and takes part in no mean.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.engines.concurrent_searches import ConcurrentSearches
from zerosearch_env.engines.run import run_searches
from zerosearch_env.errors import AgentError, ConfigError, unknown_name
from zerosearch_env.game.episode import Episode
from zerosearch_env.identity import text_hash
from zerosearch_env.loading import load_callable
from zerosearch_env.progress import WORK
from zerosearch_env.types import Document, SearchRequest, SearchResult, Step, StopReason

from ..processes.pool import replay
from .base import OnDone, Player
from .calls import LocalAgent, TakeTurn, describe_error
from .isolated import IsolatedAgent

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

OnAgentError = Literal["stop", "retry", "skip"]
RunSearch = Callable[[Sequence[SearchRequest]], Sequence[SearchResult]]


@dataclass(frozen=True)
class AgentOptions:
    """How a third-party agent is played."""

    concurrency: int = 1
    """Episodes played at the same time, each in its own thread. Their searches run at the same time if the engine waits
    for other machines, else in batches. Values above 1 need a function that is thread-safe, or a class."""
    on_error: OnAgentError = "stop"
    """What follows a failure of the agent: "stop" ends the evaluation, "skip" ends the episode as failed, "retry" asks
    again, at most `retries` times per episode, and then skips."""
    retries: int = 3
    """Number of retries per episode."""
    backoff_s: float = 1.0
    """Pause before the first retry, in seconds; it doubles with every further one."""
    turn_timeout_s: float | None = None
    """Time limit of a turn, in seconds; None: no limit."""
    isolate: bool = False
    """Run the agent in its own process, which the gold answers never enter (`isolated.py`)."""

    def __post_init__(self) -> None:
        check_whole_number("concurrency", self.concurrency)
        if self.on_error not in get_args(OnAgentError):
            raise unknown_name("on_agent_error", self.on_error, get_args(OnAgentError))
        check_whole_number("retries", self.retries)
        check_number("backoff_s", self.backoff_s, least=0)
        if self.turn_timeout_s is not None:
            check_number("turn_timeout_s", self.turn_timeout_s, above=0)


class CallablePlayer(Player):
    """Plays with a third-party function, one episode after the other (or several in threads).

    The function is called once per turn with `(observation, info)` and returns the text of its turn. `observation` is
    the text added since its last turn (at first the prompt). `info` has `question`, `question_id` (a hash of the
    question's text), `protocol`, `stop_strings`, `turn` (turns taken so far, 0 at the start of an episode), `searches`,
    `max_turns`, `last_turn` (only an answer is allowed now), `transcript` (the whole text so far), and after a turn
    also `turn_text` (its last text up to the end of the action), `action`, `query` and `documents` (title and text).

    An agent that cannot stop after its action, and may go on to make up documents, keeps `turn_text` or uses
    `transcript`; both are without what follows the action.

    A class is instantiated once per episode, without arguments, and the instance is called: it may keep what it wants
    from turn to turn. A retry of a function repeats the turn. A retry of a class plays the episode again from its
    beginning with a new instance, because the state of one that failed within a turn cannot be trusted.

    Args:
        agent: the function, the class, or `"module:callable"` (also `"file.py:callable"`); `async def` works too.
        name: its name in results; None uses the spec or the callable's own name.
        options: concurrency, time limit, and what follows a failure.

    Raises:
        ConfigError: the spec does not lead to a callable.
    """

    def __init__(
        self, agent: str | Callable[..., Any], *, name: str | None = None, options: AgentOptions | None = None
    ) -> None:
        self.options = options or AgentOptions()
        own_name = agent if isinstance(agent, str) else getattr(agent, "__name__", type(agent).__name__)
        self.name: str = name or own_name
        limit = self.options.turn_timeout_s
        self._agent: LocalAgent | IsolatedAgent
        if not self.options.isolate:
            function = load_callable(agent, "agent") if isinstance(agent, str) else agent
            self._agent = LocalAgent(function, self.name, limit)
        elif isinstance(agent, str):
            self._agent = IsolatedAgent(agent, limit)
        else:
            raise ConfigError(
                f"agent {self.name!r}: isolate needs an agent given as module:callable or file.py:callable"
            )
        self._done_lock = threading.Lock()

    @property
    def source(self) -> Path | None:
        """The source file of the agent; None if it has none."""
        return self._agent.source

    def close(self) -> None:
        """End the agent's event loop or processes, if it has any."""
        self._agent.close()

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`.

        Raises:
            AgentError: the agent failed, and `on_error` is "stop".
            ConfigError: the agent cannot be called with an observation and an info.
        """
        stop = threading.Event()
        positions = iter(range(len(episodes)))  # shared by the threads: each takes the next episode when it is free

        def work(run: RunSearch) -> None:
            for position in positions:
                if stop.is_set():
                    return
                self._play_one(position, episodes[position], run, on_done, stop)

        if self.options.concurrency == 1:
            work(partial(run_searches, engine))
            return
        searches = ConcurrentSearches(engine)
        with contextlib.closing(searches), ThreadPoolExecutor(self.options.concurrency) as pool:
            futures = [pool.submit(work, searches.run) for _ in range(self.options.concurrency)]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        for future in finished:
            future.result()

    def _play_one(
        self, position: int, episode: Episode, run: RunSearch, on_done: OnDone | None, stop: threading.Event
    ) -> None:
        """Play one episode to its end, and report it."""
        with contextlib.ExitStack() as instance:
            played = self._play_to_the_end(episode, run, stop, instance)
        if played is None:
            return
        with self._done_lock:
            if played is not episode:
                replay(episode, played.turns)
            if on_done:
                on_done(position)

    def _play_to_the_end(
        self, episode: Episode, run: RunSearch, stop: threading.Event, instance: contextlib.ExitStack
    ) -> Episode | None:
        """Play one episode; after a failure again, as often as the options allow.

        Returns:
            The episode, or a copy if it may have to begin again; None if it was stopped.
        """
        options = self.options
        restarts = options.on_error == "retry" and self._agent.stateful
        current = _new_episode(episode) if restarts else episode
        step: Step | None = None
        take_turn: TakeTurn | None = None
        failures = 0
        while not current.done:
            if stop.is_set():
                return None
            try:
                take_turn = take_turn or self._start(current, instance)
                text = self._ask(take_turn, current, step)
            except AgentError as error:
                failures += 1
                if options.on_error == "stop":
                    raise
                if options.on_error == "skip" or failures > options.retries:
                    current.stop(StopReason.AGENT_ERROR, error=str(error))
                    break
                stop.wait(options.backoff_s * 2 ** (failures - 1))
                if restarts:
                    instance.close()
                    current, step, take_turn = _new_episode(episode), None, None
                continue
            WORK.add(turns=1)
            outcome = current.advance(text)
            if not isinstance(outcome, Step):
                outcome = current.observe(run(current.requests))
            step = outcome
        return current

    def _start(self, episode: Episode, instance: contextlib.ExitStack) -> TakeTurn:
        try:
            return instance.enter_context(self._agent.start())
        except (Exception, SystemExit) as cause:
            if isinstance(cause, ConfigError):
                raise
            where = f"agent {self.name!r}, question {episode.question.id!r}"
            raise AgentError(f"{where}: it could not be instantiated: {describe_error(cause)}") from cause

    def _ask(self, take_turn: TakeTurn, episode: Episode, step: Step | None) -> str:
        observation = episode.prompt if step is None else step.observation
        where = f"agent {self.name!r}, question {episode.question.id!r}, turn {len(episode.turns) + 1}"
        try:
            text = take_turn(observation, public_info(episode, step))
        except (Exception, SystemExit) as cause:
            raise AgentError(f"{where}: {describe_error(cause)}") from cause
        if not isinstance(text, str):
            raise AgentError(f"{where}: expected the text of one turn (str), got {type(text).__name__}: {text!r:.100}")
        return text


def public_info(episode: Episode, step: Step | None) -> dict[str, Any]:
    """The info dictionary of a third-party agent. A new one each time, so the agent may change it.

    Args:
        episode: the episode, not yet done.
        step: its latest step, or None before the first turn.
    """
    info: dict[str, Any] = {
        "question": episode.question.text,
        # The dataset's own id would lead to the row, and so to the answer.
        "question_id": text_hash(episode.question.text),
        "protocol": episode.rules.protocol.name,
        "stop_strings": episode.rules.protocol.stop_strings,
        "turn": len(episode.turns),
        "searches": episode.searches,
        "max_turns": episode.rules.max_turns,
        "last_turn": episode.last_turn,
        "transcript": episode.text,
    }
    if step is not None:
        info["turn_text"] = episode.turns[-1].context_text
        info["action"] = step.action
        info["query"] = step.query
        info["queries"] = step.queries
        # Scores and sources are left out: they would reveal which documents are noisy.
        info["documents"] = tuple(Document(title=d.title, text=d.text) for d in step.documents)
    return info


def _new_episode(episode: Episode) -> Episode:
    """The same episode, from its beginning."""
    return Episode(episode.question, episode.rules, noise_level=episode.noise_level, seed=episode.seed)
