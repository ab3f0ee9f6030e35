"""Third-party agents as players: any function `(observation, info) -> text of one turn`, sync or async.

Agents that own their loop are in `tool_agents.py`; `ThirdPartyPlayer` has what both have in common.

An agent sees what the environment shows a policy, and nothing about the setup of the experiment: no gold answer, noise
level, `noisy` or `answer_in_documents`, no scores or passage ids of documents, and no id of the question's row.

A failure of the agent's code (an exception, `sys.exit`, a result that is not a string, the time limit) is an
`AgentError`. `AgentOptions.on_error` says what follows. A failed episode ends with `StopReason.AGENT_ERROR`: it is
counted and recorded, and takes part in no mean.
"""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from zerosearch_env.engines.concurrent_searches import ConcurrentSearches
from zerosearch_env.engines.run import Engine, run_searches
from zerosearch_env.errors import AgentError, BudgetError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, changed_rules
from zerosearch_env.identity import source_hash, text_hash
from zerosearch_env.loading import load_callable
from zerosearch_env.progress import WORK
from zerosearch_env.types import Document, Step, StopReason

from .base import AgentOptions, OnDone, Player
from .calls import LocalAgent, TakeTurn, describe_error
from .isolated import IsolatedAgent

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

Started = TypeVar("Started")
PlayTurn = Callable[[], None]
"""Plays one turn of an episode that has been begun."""


class ConcurrentPlayer(Player):
    """Plays turn by turn, several episodes at the same time, each in its own thread; repeats what failed.

    Args:
        name: name in results.
        options: concurrency, time limit, and what follows a failure.
    """

    tagged = True
    one_by_one = True
    default_concurrency: ClassVar[int] = 1
    """Used if the options leave it open."""

    def __init__(self, name: str, options: AgentOptions | None = None) -> None:
        self.name: str = name
        self.options = options or AgentOptions()
        self.concurrency = self.options.concurrency or self.default_concurrency
        self._done_lock = threading.Lock()

    @property
    @abstractmethod
    def restarts(self) -> bool:
        """Whether a retry plays the episode again from its beginning, instead of the turn that failed."""

    @abstractmethod
    def begin(self, episode: Episode, engine: Engine, instance: contextlib.ExitStack) -> PlayTurn:
        """Begin an episode.

        Args:
            episode: the episode, from its beginning.
            engine: answers the searches.
            instance: closed when the episode is over or begins again; what belongs to this attempt ends with it.

        Returns:
            A function that plays one turn. It raises an `AgentError` if the agent fails.

        Raises:
            AgentError: the agent failed.
        """

    def interrupt(self) -> None:
        """Abandon the turns in progress, where that is possible: their episodes will not be finished."""

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`.

        Raises:
            AgentError: the agent failed, and `on_error` is "stop".
            ConfigError: the agent cannot be called with its arguments.
        """
        stop = threading.Event()
        positions = iter(range(len(episodes)))  # shared by the threads: each takes the next episode when it is free

        def work(engine: Engine) -> None:
            for position in positions:
                if stop.is_set():
                    return
                try:
                    episode = episodes[position]
                except BudgetError:  # those that have begun are played to their end
                    return
                if not self._play_to_the_end(episode, engine, stop):
                    return
                if on_done:
                    with self._done_lock:
                        on_done(position)

        if self.concurrency == 1:
            work(engine)
            return
        searches = ConcurrentSearches(engine)
        with contextlib.closing(searches), ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(work, searches) for _ in range(self.concurrency)]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                self.interrupt()
                pool.shutdown(wait=True, cancel_futures=True)
        for future in finished:
            future.result()

    def _play_to_the_end(self, episode: Episode, engine: Engine, stop: threading.Event) -> bool:
        """Play one episode; after a failure again, as often as the options allow. Returns False if it was stopped."""
        options = self.options
        play_turn: PlayTurn | None = None
        failures = 0
        with contextlib.ExitStack() as instance:
            while not episode.done:
                if stop.is_set():
                    return False
                try:
                    play_turn = play_turn or self.begin(episode, engine, instance)
                    play_turn()
                    WORK.add(turns=1, requests=0 if self.billed else 1)
                except AgentError as error:
                    if stop.is_set():  # it was interrupted
                        return False
                    failures += 1
                    if options.on_error == "stop":
                        raise
                    if options.on_error == "skip" or failures > options.retries:
                        episode.stop(StopReason.AGENT_ERROR, error=str(error))
                        break
                    stop.wait(options.pause_s(failures))
                    if self.restarts:
                        instance.close()
                        episode.restart()
                        play_turn = None
        return True

    def _where(self, episode: Episode) -> str:
        """The agent and the question, for the messages of errors."""
        return f"agent {self.name!r}, question {episode.question.id!r}"


class ThirdPartyPlayer(ConcurrentPlayer):
    """Plays with a user's code, one episode after the other unless the options say otherwise.

    Args:
        agent: the function, the class, or `"module:callable"` (also `"file.py:callable"`); `async def` works too.
        name: its name in results; None uses the spec or the callable's own name.
        options: concurrency, time limit, and what follows a failure.
        card: entries of a card that are rules, such as `max_turns`, for this agent only.

    Raises:
        ConfigError: the spec does not lead to a callable.
    """

    unmetered = True
    _local: ClassVar[type[LocalAgent]] = LocalAgent
    _isolated: ClassVar[type[IsolatedAgent]] = IsolatedAgent

    def __init__(
        self,
        agent: str | Callable[..., Any],
        *,
        name: str | None = None,
        options: AgentOptions | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        own_name = agent if isinstance(agent, str) else getattr(agent, "__name__", type(agent).__name__)
        super().__init__(name or own_name, options)
        self.card = dict(card or {})
        limit = self.options.turn_timeout_s
        self._agent: LocalAgent | IsolatedAgent
        if not self.options.isolate:
            function = load_callable(agent, "agent") if isinstance(agent, str) else agent
            self._agent = self._local(function, self.name, limit)
        elif isinstance(agent, str):
            self._agent = self._isolated(agent, limit)
        else:
            raise ConfigError(
                f"agent {self.name!r}: isolate needs an agent given as module:callable or file.py:callable"
            )

    @property
    def source(self) -> Path | None:
        """The source file of the agent; None if it has none."""
        return self._agent.source

    @property
    def code(self) -> str:
        """See `Player.code`: of the agent, with the modules of its folder that it imports."""
        return "" if self.source is None else source_hash(self.source)

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules, changed by the agent's own options."""
        return changed_rules(rules, self.card)

    def interrupt(self) -> None:
        """See `ConcurrentPlayer.interrupt`; a sync function without a time limit cannot be abandoned."""
        self._agent.interrupt()

    def close(self) -> None:
        """See `Player.close`: end the agent's event loop or processes, if it has any."""
        self._agent.close()

    def _enter(
        self, place: contextlib.AbstractContextManager[Started], episode: Episode, instance: contextlib.ExitStack
    ) -> Started:
        """Enter the context in which the agent plays an episode.

        Raises:
            AgentError: the agent's constructor failed.
        """
        try:
            return instance.enter_context(place)
        except (Exception, SystemExit) as cause:
            if isinstance(cause, ConfigError):
                raise
            raise AgentError(
                f"{self._where(episode)}: it could not be instantiated: {describe_error(cause)}"
            ) from cause


class CallablePlayer(ThirdPartyPlayer):
    """Plays with a third-party function that returns the text of one turn.

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
    """

    @property
    def restarts(self) -> bool:
        """See `ThirdPartyPlayer.restarts`."""
        return self._agent.stateful

    def begin(self, episode: Episode, engine: Engine, instance: contextlib.ExitStack) -> PlayTurn:
        """See `ThirdPartyPlayer.begin`."""
        take_turn = self._enter(self._agent.start(), episode, instance)
        step: Step | None = None

        def play_turn() -> None:
            nonlocal step
            outcome = episode.advance(self._ask(take_turn, episode, step))
            if isinstance(outcome, Step):
                step = outcome
                return
            results = run_searches(engine, episode.requests)
            step = episode.observe(results)

        return play_turn

    def _ask(self, take_turn: TakeTurn, episode: Episode, step: Step | None) -> str:
        observation = episode.prompt if step is None else step.observation
        where = f"{self._where(episode)}, turn {len(episode.turns) + 1}"
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
