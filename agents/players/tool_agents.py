"""Agents that own their loop as players: `agent(question, search) -> answer`, sync or async, in any framework.

`search(query)` returns documents as text, for the agent itself or as the tool of a framework. Each search is one turn
of the episode, played through `Session`: limits, noise draws and scores are those of every other agent.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar

from zerosearch_env.engines.run import Engine
from zerosearch_env.envs.session import Session
from zerosearch_env.errors import AgentError, EngineError, EpisodeError
from zerosearch_env.game.episode import Episode

from .calls import LocalAgent, describe_error
from .conversations import Conversation, LocalToolAgent, Reply
from .isolated import IsolatedAgent, IsolatedToolAgent
from .third_party import PlayTurn, ThirdPartyPlayer

MOST_REFUSED = 10
"""Number of refused searches of an episode after which it ends (`max_turns`): the agent does not stop searching."""


class ToolAgentPlayer(ThirdPartyPlayer):
    """Plays with a third-party function that owns its loop.

    The function is called once per episode with `(question, search)` and returns its answer. `search(query)` returns
    the documents as text (`Session.search_text`). It raises an `EpisodeError` if none can come back: all searches are
    used up, or the query is empty. Its message is written for a model, and frameworks pass it on as the result of the
    tool call. If the engine fails, `search` raises too, and the episode ends as failed.

    An episode without an answer ends with `max_turns`: the agent let that error pass, gave an empty answer, or went on
    searching after `MOST_REFUSED` refusals.

    An `async def` agent gets a `search` to await. Searches that it starts at the same time, also from threads, are
    played one after another, each as a turn of its own.

    A class is instantiated once per episode, without arguments, and the instance is called. A retry plays the episode
    again from its beginning. The time limit is that of a turn: from the start, or from the documents of a search, to
    the next search or the answer.
    """

    _local: ClassVar[type[LocalAgent]] = LocalToolAgent
    _isolated: ClassVar[type[IsolatedAgent]] = IsolatedToolAgent
    _agent: LocalToolAgent | IsolatedToolAgent

    @property
    def restarts(self) -> bool:
        """See `ThirdPartyPlayer.restarts`."""
        return True

    def begin(self, episode: Episode, engine: Engine, instance: contextlib.ExitStack) -> PlayTurn:
        """See `ThirdPartyPlayer.begin`."""
        conversation = self._enter(self._agent.prepare(), episode, instance)(episode.question.text)
        session = Session.of(episode, engine)
        reply: Reply | None = None
        refused = 0

        def play_turn() -> None:
            nonlocal reply, refused
            query = self._next(conversation, reply, session)
            if query is None:
                return
            try:
                reply = session.search_text(query)
            except EngineError as error:
                reply = error
            except EpisodeError as error:
                reply = error
                refused += 1
            if refused > MOST_REFUSED and not session.done:
                session.stop("max_turns")

        return play_turn

    def _next(self, conversation: Conversation, reply: Reply | None, session: Session) -> str | None:
        """The agent's next query; None if it has ended, and the episode with it."""
        try:
            return conversation.send(reply)
        except StopIteration as end:
            with contextlib.suppress(EpisodeError):  # an empty answer
                session.answer(end.value)
        except EpisodeError:
            pass  # a refused search that the agent did not handle
        except (Exception, SystemExit) as cause:
            where = f"{self._where(session.episode)}, after {session.episode.searches} searches"
            raise AgentError(f"{where}: {describe_error(cause)}") from cause
        if not session.done:
            session.stop("max_turns")
        return None
