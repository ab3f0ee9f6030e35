"""Third-party agents as players: any function `(observation, info) -> text of one turn`.

An agent sees what the environment shows a policy, and nothing about the setup of the experiment: no gold answer, noise
level, `noisy` or `answer_in_documents`, and no scores or passage ids of documents.
"""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.engines.run import run_searches
from zerosearch_env.errors import AgentError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules
from zerosearch_env.types import Document, SearchRequest, Step

from .base import OnDone
from .loading import load_callable

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

AgentFunction = Callable[[str, Mapping[str, Any]], str]


class CallablePlayer:
    """Plays with a third-party function, one episode after the other (or several in threads).

    The function is called once per turn with `(observation, info)` and returns the text of its turn. `observation` is
    the text added since its last turn (at first the prompt). `info` has `question`, `question_id`, `protocol`,
    `stop_strings`, `turn` (turns taken so far, 0 at the start of an episode), `searches`, `max_turns`, `last_turn`
    (only an answer is allowed now), `transcript` (the whole text so far), and after a turn also `action`, `query` and
    `documents` (title and text).

    A class is instantiated once per call of `play`, without arguments, and the instance is called.

    Args:
        agent: the function, the class, or `"module:callable"` (also `"file.py:callable"`).
        name: its name in results; None uses the spec or the callable's own name.
        concurrency: episodes played at the same time, each in its own thread. The engine is still called from one
            thread at a time. Values above 1 need a thread-safe agent.
    """

    searches = True

    def __init__(self, agent: str | Callable[..., Any], *, name: str | None = None, concurrency: int = 1) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, got {concurrency}")
        if isinstance(agent, str):
            self._agent = load_callable(agent)
        else:
            self._agent = agent
        own_name = agent if isinstance(agent, str) else getattr(agent, "__name__", type(agent).__name__)
        self.name: str = name or own_name
        self._concurrency = concurrency
        self._engine_lock = threading.Lock()
        self._done_lock = threading.Lock()

    @property
    def source(self) -> Path | None:
        """The source file of the agent; None if it has none."""
        try:
            target = (
                self._agent if inspect.isroutine(self._agent) or inspect.isclass(self._agent) else type(self._agent)
            )
            file = inspect.getsourcefile(target)
        except TypeError:
            return None
        return Path(file) if file and Path(file).is_file() else None

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules, unchanged."""
        return rules

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`.

        Raises:
            AgentError: the agent raises an exception or does not return a string; the message names the question and
                the turn. `on_done` has been called for episodes that were done before.
        """
        agent = self._instance()
        if self._concurrency == 1:
            for position, episode in enumerate(episodes):
                self._play_one(agent, position, episode, engine, on_done)
            return
        stop = threading.Event()
        with ThreadPoolExecutor(self._concurrency) as pool:
            futures = [pool.submit(self._play_one, agent, i, e, engine, on_done, stop) for i, e in enumerate(episodes)]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        for future in finished:
            future.result()

    def _instance(self) -> AgentFunction:
        agent: Any = self._agent
        if inspect.isclass(agent):
            try:
                agent = agent()
            except Exception as cause:
                raise AgentError(f"agent {self.name!r} could not be instantiated: {_cause(cause)}") from cause
        if not callable(agent):
            raise ConfigError(f"agent {self.name!r}: an instance of the class is not callable; define __call__")
        target = agent if inspect.isroutine(agent) else agent.__call__
        if inspect.iscoroutinefunction(target):
            raise ConfigError(f"agent {self.name!r} is a coroutine function; pass a plain function that returns text")
        try:
            inspect.signature(agent).bind("observation", {})
        except TypeError as cause:
            raise ConfigError(f"agent {self.name!r} must take (observation, info): {cause}") from cause
        except ValueError:
            pass  # a builtin without a signature: a wrong one fails at the first call
        return agent  # type: ignore[no-any-return]

    def _play_one(
        self,
        agent: AgentFunction,
        position: int,
        episode: Episode,
        engine: SearchEngine,
        on_done: OnDone | None,
        stop: threading.Event | None = None,
    ) -> None:
        observation, step = episode.prompt, None
        while not episode.done:
            if stop is not None and stop.is_set():
                return
            text = self._ask(agent, observation, public_info(episode, step), episode)
            outcome = episode.advance(text)
            if isinstance(outcome, SearchRequest):
                with self._engine_lock:
                    (result,) = run_searches(engine, [outcome])
                outcome = episode.observe(result)
            step, observation = outcome, outcome.observation
        if on_done:
            with self._done_lock:
                on_done(position)

    def _ask(self, agent: AgentFunction, observation: str, info: dict[str, Any], episode: Episode) -> str:
        where = f"agent {self.name!r}, question {episode.question.id!r}, turn {len(episode.turns) + 1}"
        try:
            text = agent(observation, info)
        except Exception as cause:
            raise AgentError(f"{where}: {_cause(cause)}") from cause
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
        "question_id": episode.question.id,
        "protocol": episode.rules.protocol.name,
        "stop_strings": episode.rules.protocol.stop_strings,
        "turn": len(episode.turns),
        "searches": episode.searches,
        "max_turns": episode.rules.max_turns,
        "last_turn": episode.last_turn,
        "transcript": episode.text,
    }
    if step is not None:
        info["action"] = step.action
        info["query"] = step.query
        # Scores and sources are left out: they would reveal which documents are noisy.
        info["documents"] = tuple(Document(title=d.title, text=d.text) for d in step.documents)
    return info


def _cause(error: BaseException) -> str:
    """One line with the error and the place in the agent's code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}"
