"""`SearchEnvironment`: the episodes of one client; `make_app`: the server of all clients."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gymnasium.utils import seeding
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_types import (
    CallToolAction,
    CallToolObservation,
    ListToolsAction,
    ListToolsObservation,
    Tool,
)
from openenv.core.env_server.types import Action, Observation

from ...envs.infos import SCORE_KEYS, plain
from ...envs.reset import RESET_OPTIONS
from ...envs.session import Session
from ...envs.sessions import SessionSource
from ...errors import EngineError, EpisodeError, unknown_name
from .models import SearchAction, SearchObservation, SearchState
from .tools import TOOLS, Tools, wrong_call

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI

MAX_SESSIONS = 4096
"""Maximum number of clients at the same time."""


class SearchEnvironment(Environment):
    """The episodes of one client, one after another.

    Args:
        source: starts them; all clients share it.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True
    REQUIRES_SINGLE_THREAD_EXECUTOR = True  # one thread opens and closes all environments, instead of one each

    def __init__(self, source: SessionSource) -> None:
        super().__init__()
        self._source = source
        self._random: np.random.Generator | None = None
        self._name: str | None = None
        self.session: Session | None = None
        self.mcp_server = Tools(self.play)

    # Any: OpenEnv declares it so
    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> SearchObservation:
        """Start the episode that `gymnasium.make("ZeroSearch-v0", ...)` starts with the same seed and options.

        Args:
            seed: seed of this client's random generator. None: the next episode of this generator, or, if the client
                has not given a seed yet, of the one that all clients share.
            episode_id: a name of your choice, part of the state.
            **options: `question` (index or id), `noise_level`, `progress` and `noise_kind`, or `row`, a row of `rows`.

        Raises:
            ConfigError: an option is unknown or has an invalid value; the current episode continues.
        """
        for name in options:
            if name not in (*RESET_OPTIONS, "row"):
                raise unknown_name("reset option", name, (*RESET_OPTIONS, "row"))
        random = self._random if seed is None else seeding.np_random(seed)[0]
        row = options.pop("row", None)
        session = self._source.start(seed=random, **options) if row is None else self._source.start_row(row)
        self.session, self._random, self._name = session, random, episode_id
        return SearchObservation(text=session.prompt, question=session.episode.question.text)

    # Any: OpenEnv declares it so
    async def reset_async(self, **options: Any) -> SearchObservation:
        """`reset` on the event loop; it takes microseconds."""
        return self.reset(**options)

    # Any: OpenEnv declares it so
    def step(self, action: Action, timeout_s: float | None = None, **more: Any) -> Observation:
        """`step_async` for callers without an event loop."""
        return asyncio.run(self.step_async(action))

    # Any: OpenEnv declares it so
    async def step_async(self, action: Action, timeout_s: float | None = None, **more: Any) -> Observation:
        """Play a turn: a text of the policy, or a call of a tool.

        An action that cannot be played (after the end, one search too many, an unknown tool) is answered with a message
        that a model can read. The reward is that of the episode, once, at its end; otherwise it is None.

        Raises:
            EngineError: the engine failed: the episode is over without a reward, and must be left out.
        """
        if isinstance(action, ListToolsAction):
            found = await self.mcp_server.list_tools()
            tools = [Tool(name=t.name, description=t.description, input_schema=t.parameters) for t in found]
            return ListToolsObservation(tools=tools)
        if not isinstance(action, CallToolAction):
            text, outcome = await self.play(lambda session: _turn(session, action.text))
            return SearchObservation(text=text, **outcome)
        name, arguments = action.tool_name, action.arguments
        if (error := wrong_call(name, arguments)) is not None:
            return CallToolObservation(tool_name=name, error=error)
        result, outcome = await self.play(lambda session: TOOLS[name](session, **arguments))
        return CallToolObservation(tool_name=name, result=result, **outcome)

    # Any: the fields of an observation have different types
    async def play(self, action: Callable[[Session], Awaitable[str]]) -> tuple[str, dict[str, Any]]:
        """Take an action, if there is an episode in which it can be taken.

        Args:
            action: plays, and returns what the model reads.

        Returns:
            What the model reads, and the fields `done`, `reward` and `metadata` of the observation.

        Raises:
            EngineError: the engine failed.
        """
        session = self.session
        if session is None:
            return "There is no question yet: the environment must be reset first.", {}
        if session.done:
            return "This question is finished: nothing more counts for it. Stop here.", {"done": True}
        try:
            text = await action(session)
        except EpisodeError as refusal:
            text = str(refusal)
        reason = session.episode.stop_reason
        if reason is None:
            return text, {}
        if reason.failed:
            raise EngineError(str(session.episode.turns[-1].step.error))
        assert session.scores is not None  # the episode is over
        return text, {"done": True, "reward": session.scores.reward, "metadata": _scores(session)}

    @property
    def state(self) -> SearchState:
        """The state of the episode."""
        if self.session is None:
            return SearchState(progress=self._source.progress)
        episode = self.session.episode
        return SearchState(
            episode_id=self._name,
            step_count=len(episode.turns),
            question_id=episode.question.id,
            noise_level=episode.noise_level,
            progress=self._source.progress,
            noisy=[flag for turn in episode.turns for flag in turn.step.noise_flags],
            scores=_scores(self.session),
        )

    def close(self) -> None:
        """Free the episode. OpenEnv calls this when the client has left."""
        self.session = None


def make_app(source: SessionSource, *, max_sessions: int = MAX_SESSIONS) -> FastAPI:
    """The server as an ASGI application; `uvicorn.run(app)` serves it.

    A client that leaves frees its session. The source stays open when the application stops.

    Args:
        source: starts the episodes of all clients.
        max_sessions: maximum number of clients at the same time; more get the error `CAPACITY_REACHED`.
    """
    app: FastAPI = create_app(
        functools.partial(SearchEnvironment, source),
        SearchAction,
        SearchObservation,
        env_name="zerosearch",
        max_concurrent_envs=max_sessions,
        state_cls=SearchState,
    )
    return app


async def _turn(session: Session, text: str) -> str:
    return (await session.aturn(text)).observation


def _scores(session: Session) -> dict[str, Any] | None:
    """The scores of a finished episode as JSON values; None before the end, or if the engine failed."""
    episode, scores = session.episode, session.scores
    if scores is None or episode.stop_reason is None or episode.stop_reason.failed:
        return None
    values = {key: getattr(scores, key) for key in SCORE_KEYS}
    return plain({"stop_reason": episode.stop_reason, "reward": scores.reward, **values, **dict(scores.extra)})
