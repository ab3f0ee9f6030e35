"""`Session`: one episode played by actions (a query, an answer) instead of text, for agents that call tools.

    session = Session(question, rules, engine, noise_level=0.25, seed=7)
    session.prompt                           # the question with the protocol's instruction
    documents = session.search("a query")    # or: await session.asearch("a query")
    scores = session.answer("an answer")

It is `Episode` with an engine. With the same question, rules, noise level and seed it plays exactly the episode of the
environment, and no action is turned into text and parsed again. Errors that the agent can do something about are
`EpisodeError`s whose message can be given to a model as the result of its tool call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..engines import SearchEngine
from ..engines.base import check_noise_kinds
from ..engines.run import Engine, is_quick, run_search, run_searches
from ..errors import ConfigError, EngineError, EpisodeError, unknown_name
from ..game.episode import Episode
from ..game.noise_kinds import DISTRACTOR, NoiseMixture, NoiseSpec, read_mixture
from ..game.rules import Rules
from ..protocols.documents import render_plain
from ..types import Document, Question, Scores, SearchResult, Step, StopReason


class Session:
    """One question played by one agent, with the searches answered by an engine.

    Actions come one at a time: a second search before the first has returned is refused.

    Args:
        question: the question.
        rules: protocol, limits and reward; see `make_rules`.
        engine: a search engine; see `make_engine`. It may be shared by many sessions and stays open.
        noise_level: probability in [0, 1] that a search (or a document, by `rules.noise_unit`) is noisy.
        noise_kind: what noisy searches return, a kind or a mixture (`read_mixture`); the engine must be made for it
            with `add_noise_kinds`.
        seed: 64-bit integer from which every draw of this episode is derived.

    Raises:
        ConfigError: the noise level is not a number in [0, 1], a kind of noise is unknown or none of the engine's, or
            an argument has the wrong type.
        DataError: the question has no answers.

    Example:
        >>> from zerosearch_env import ConstantEngine, make_rules
        >>> question = Question("q1", "What is the capital of France?", ("Paris",))
        >>> session = Session(question, make_rules(), ConstantEngine(), noise_level=0.25, seed=1)
        >>> [document.title for document in session.search("capital of France")[:2]]
        ['Constant 1', 'Constant 2']
        >>> session.answer("Paris").reward
        1.0
    """

    def __init__(
        self,
        question: Question,
        rules: Rules,
        engine: SearchEngine,
        *,
        noise_level: float = 0.0,
        noise_kind: NoiseSpec | NoiseMixture = DISTRACTOR,
        seed: int = 0,
    ) -> None:
        for name, value, kind, how in (
            ("question", question, Question, "such as load_dataset(...).questions[0]"),
            ("rules", rules, Rules, "from make_rules(...)"),
            ("engine", engine, SearchEngine, "from make_engine(...)"),
        ):
            if not isinstance(value, kind):
                raise ConfigError(f"{name} must be a {kind.__name__} {how}, got {value!r:.200}.")
        kinds = read_mixture(noise_kind)
        check_noise_kinds(engine, kinds.kinds)
        self.episode = Episode(question, rules, noise_level=noise_level, noise_kinds=kinds, seed=seed)
        """The episode so far, for example for `transcript_record`."""
        self.engine: Engine = engine

    @classmethod
    def of(cls, episode: Episode, engine: Engine) -> Session:
        """A session that plays an existing episode, for example one of an evaluation.

        Args:
            episode: the episode; what has been played of it stays.
            engine: the search engine.
        """
        session = cls.__new__(cls)
        session.episode, session.engine = episode, engine
        return session

    @property
    def prompt(self) -> str:
        """The protocol's instruction with the question."""
        return self.episode.prompt

    @property
    def done(self) -> bool:
        """True when the episode is over."""
        return self.episode.done

    @property
    def scores(self) -> Scores | None:
        """The scores of the episode; None until it is over."""
        return self.episode.scores

    def search(self, query: str) -> tuple[Document, ...]:
        """Search, which takes one turn.

        Args:
            query: the query. It is cleaned, and cut to `rules.max_query_chars`.

        Returns:
            The documents, at most `rules.top_k`; empty if nothing was found.

        Raises:
            EpisodeError: no document comes back, and the message says what to do instead. The episode is over, a search
                is running, or only the answer is left: nothing has changed. The query is empty or far too long:
                as in the environment, this was an invalid turn. The tool says that it failed (noise of the kind
                `outage`): this was a search like any other.
            EngineError: the engine failed, whatever it raised or returned; the episode is over.
            ConfigError: the query is not a string.
        """
        self._request(query)
        return self._read(self._run())

    async def asearch(self, query: str) -> tuple[Document, ...]:
        """`search` through the engine's `asearch`. If the task is cancelled, the episode ends as a failed search."""
        self._request(query)
        return self._read(await self._arun())

    def search_text(self, query: str) -> str:
        """`search` for a model that calls tools: the documents as text, and a notice after the last search."""
        return self._as_text(self.search(query))

    async def asearch_text(self, query: str) -> str:
        """`search_text` through the engine's `asearch`."""
        return self._as_text(await self.asearch(query))

    def answer(self, text: str) -> Scores:
        """Answer, which ends the episode.

        Args:
            text: the answer alone. It is scored as it is given, without white space at its ends.

        Returns:
            The scores.

        Raises:
            EpisodeError: the episode is over or a search is running: nothing has changed. The answer is empty: as in
                the environment, this was an invalid turn, and the episode continues.
            ConfigError: the answer is not a string.
        """
        self._check_ready()
        step = self.episode.advance_action("answer", text)
        if isinstance(step, Step) and step.scores is not None:
            return step.scores
        raise EpisodeError("The answer is empty, which uses up a turn. Give the answer in a few words.")

    def answer_text(self, text: str) -> str:
        """`answer` for a model that calls tools: a confirmation, which does not tell the score."""
        self.answer(text)
        return "The answer has been recorded. Stop here."

    async def aanswer_text(self, text: str) -> str:
        """`answer_text` in an event loop, which does not wait while a judge computes the reward."""
        return await asyncio.to_thread(self.answer_text, text) if self.episode.rules.waits else self.answer_text(text)

    def turn(self, text: str) -> Step:
        """Play one turn as text in the tags of the protocol, like the environment's `step`.

        Args:
            text: the policy's text of this turn.

        Returns:
            The step. If the engine failed, it ends the episode and `step.error` says how.

        Raises:
            EpisodeError: the episode is over, or a search is running.
            ConfigError: the text is not a string.
        """
        outcome = self.episode.advance(text)
        return outcome if isinstance(outcome, Step) else self.episode.observe(self._run())

    async def aturn(self, text: str) -> Step:
        """`turn` through the engine's `asearch`. If the task is cancelled, the episode ends as a failed search."""
        if self.episode.rules.waits:  # the event loop must not wait for the reward
            outcome = await asyncio.to_thread(self.episode.advance, text)
        else:
            outcome = self.episode.advance(text)
        return outcome if isinstance(outcome, Step) else self.episode.observe(await self._arun())

    def stop(self, reason: StopReason | str, error: str | None = None) -> Scores:
        """End the episode without an answer, for example when the agent gave up or failed.

        Args:
            reason: a reason that truncates, for example `"max_turns"`, `"context_limit"` or `"agent_error"`.
            error: an error message, if something went wrong.

        Returns:
            The scores.

        Raises:
            ConfigError: the reason is unknown.
            EpisodeError: the episode is over, or the reason is one that only the agent's own turn can have.
        """
        if reason not in list(StopReason):
            raise unknown_name("stop reason", reason, map(str, StopReason))
        scores = self.episode.stop(StopReason(reason), error=error).scores
        assert scores is not None  # every stop has scores
        return scores

    def _check_ready(self) -> None:
        """Refuse an action that cannot be taken now, in words that a model understands."""
        if self.episode.stop_reason is not None:
            raise EpisodeError(finished_notice(self.episode.stop_reason))
        if self.episode.pending:
            raise EpisodeError("Another search is still running. Wait for its documents, then take the next action.")

    def _request(self, query: str) -> None:
        self._check_ready()
        if self.episode.last_turn:
            raise EpisodeError(self._used_up())
        outcome = self.episode.advance_action("search", query)
        if not isinstance(outcome, Step):
            return
        what = "too long" if outcome.stop_reason is StopReason.TOO_LONG else "empty"
        if outcome.done:
            raise EpisodeError(f"The query is {what}, which has finished this question. Stop here.")
        advice = "Give the answer now." if self.episode.last_turn else "Search for a few words, or give the answer."
        raise EpisodeError(f"The query is {what}, which uses up a turn. {advice}")

    def _read(self, results: Sequence[SearchResult]) -> tuple[Document, ...]:
        step = self.episode.observe(results)
        for result in results:
            if result.failure is not None:
                raise EngineError(result.failure, result.attempts)
        for result in results:
            if result.message is not None:
                raise EpisodeError(self._with_notice(result.message))
        return step.documents

    def _as_text(self, documents: Sequence[Document]) -> str:
        return self._with_notice(render_plain(documents))

    def _with_notice(self, text: str) -> str:
        """The result of a search, and after the last one a notice that only the answer is left."""
        return f"{text}\n{self._used_up()}" if self.episode.last_turn else text

    def _used_up(self) -> str:
        return f"All {self.episode.rules.max_turns} searches are used up. Give the answer now."

    def _run(self) -> Sequence[SearchResult]:
        with self._ended_by_exceptions():
            return run_searches(self.engine, self.episode.requests)

    async def _arun(self) -> Sequence[SearchResult]:
        with self._ended_by_exceptions():
            requests = self.episode.requests
            if is_quick(self.engine, requests):  # on the event loop, as `BatchedEngine` would, but without its batches
                return run_searches(self.engine, requests)
            if len(requests) == 1:
                return [await run_search(self.engine, requests[0])]
            return await asyncio.gather(*[run_search(self.engine, request) for request in requests])

    @contextmanager
    def _ended_by_exceptions(self) -> Iterator[None]:
        """A cancelled search, or Ctrl-C, ends the episode, which would otherwise wait for the result for ever."""
        try:
            yield
        except BaseException as error:
            self.episode.stop(StopReason.ENGINE_ERROR, error=f"the search was interrupted by {type(error).__name__}")
            raise


def finished_notice(reason: StopReason) -> str:
    """What a model reads that acts after the end of its episode."""
    return f"This question is finished ({reason}): nothing more counts for it. Stop here."
