"""The rules of the game as a state machine without input or output.

    episode = Episode(question, rules, noise_level=0.25, seed=7)
    episode.prompt                              # text for the policy
    outcome = episode.advance(action_text)      # a SearchRequest, or the Step of a turn that needs no search
    step = episode.observe(search_result)       # after a SearchRequest

                 advance(text)                           observe(result)
    waiting for the policy  --- SearchRequest --->  search pending  --- Step --->  waiting for the policy
             |                                            |
             +-- Step: answer, invalid turn, last turn    +-- Step: the engine failed, the episode is over

The caller runs the searches, one at a time or in batches, whenever it likes. The environment, the vector environment,
the trainer's rollouts and the evaluation all use these two methods, so no rule is written twice. An agent that calls
tools has no text to parse: `advance_action("search", query)` takes its turn instead of `advance(text)`.

All randomness is a function of (seed, search, document). It depends neither on other episodes nor on the order in which
searches return, and with the same seed a higher noise level gives a superset of the noisy searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import index
from typing import get_args

from ..errors import ConfigError, DataError, EpisodeError, UnjudgedError, unknown_name
from ..protocols import INVALID, ParsedAction
from ..protocols.tags import answer_action, query_action
from ..randomness import split, uniform2
from ..types import (
    ActionKind,
    Document,
    JsonObject,
    Question,
    Scores,
    SearchRequest,
    SearchResult,
    Step,
    StopReason,
    Turn,
)
from .answers import documents_contain_answer
from .noise import check_level
from .reward_registry import Reward, pay
from .rewards import exact_match, score
from .rules import Rules
from .unicode_scores import unicode_score


def _state_answer(answers: Sequence[str], documents: Sequence[Document]) -> bool:
    return documents_contain_answer(documents, answers)


class Episode:
    """One question played by one policy. The module's docstring shows how to use it.

    Attributes:
        question: the question.
        rules: the rules, shared by all episodes of an environment.
        noise_level: probability in [0, 1] that a search (or a document, by `rules.noise_unit`) is noisy.
        seed: 64-bit integer from which every draw of this episode is derived.
        prompt: the first text for the policy.
        searches: number of searches made so far.
        stop_reason: why the episode ended; None while it is running.
    """

    __slots__ = (
        "_find_answer",
        "_pending",
        "_turns",
        "noise_level",
        "prompt",
        "question",
        "rules",
        "searches",
        "seed",
        "stop_reason",
    )

    def __init__(self, question: Question, rules: Rules, *, noise_level: float = 0.0, seed: int = 0) -> None:
        """Start an episode.

        Raises:
            DataError: the question has no answers, or no prompt although the rules take it from the dataset.
            ConfigError: the noise level is not a number in [0, 1].
        """
        if not question.answers:
            raise DataError(f"question {question.id!r} has no answers; every question needs at least one.")
        self.question = question
        self.rules = rules
        self.noise_level = check_level(noise_level)
        self.seed = index(seed)  # a Python int: numpy integers would overflow in `mix`
        self.prompt = rules.prompt(question)
        self.searches = 0
        self.stop_reason: StopReason | None = None
        self._find_answer = partial(_state_answer, question.answers)
        self._turns: list[tuple[str, Step, int | None]] = []
        self._pending: tuple[str, SearchRequest, int | None] | None = None

    @property
    def done(self) -> bool:
        """True when the episode is over."""
        return self.stop_reason is not None

    @property
    def messages(self) -> tuple[JsonObject, ...]:
        """The prompt as messages for a chat model, each with `role` and `content`."""
        return self.rules.messages(self.question)

    @property
    def pending(self) -> bool:
        """True between a search that `advance` returned and `observe`."""
        return self._pending is not None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far, in order, without the turn of a pending search."""
        return tuple([Turn(*turn) for turn in self._turns])

    @property
    def scores(self) -> Scores | None:
        """The prediction and its scores; None until the episode is over."""
        return self._turns[-1][1].scores if self._turns else None

    @property
    def last_turn(self) -> bool:
        """True when the next turn may only answer."""
        return self.stop_reason is None and len(self._turns) >= self.rules.max_turns

    @property
    def text(self) -> str:
        """The transcript: the prompt, then each turn's text and observation.

        What a turn's text has after the element that decided its action is left out: documents or actions that the
        policy made up there never happened. `turns` has the whole texts.
        """
        parts = [self.prompt]
        for action_text, step, end in self._turns:
            parts += (action_text[:end], step.observation)
        return "".join(parts)

    def advance(self, action_text: str) -> SearchRequest | Step:
        """Take the policy's text of one turn.

        Returns:
            The search to run (pass its result to `observe`), or the `Step` of a turn that needs no search.

        Raises:
            EpisodeError: the episode is over, or a search is pending.
            ConfigError: the action is not a string.
        """
        self._check_ready()
        if not isinstance(action_text, str):
            raise ConfigError(f"an action must be a string, got {type(action_text).__name__}.")
        if len(action_text) > self.rules.max_action_chars:
            return self._end(StopReason.TOO_LONG, action_text, "invalid")
        action = self.rules.protocol.parse(action_text)
        return self._take(action, action_text)

    def advance_action(self, kind: ActionKind, content: str, text: str | None = None) -> SearchRequest | Step:
        """Take one turn of the policy as an action instead of a text. Nothing is parsed.

        The rules are those of `advance`: the query is cleaned, and an empty query or answer is an invalid turn. The
        answer is scored as it is given.

        Args:
            kind: `"search"`, `"answer"` or `"invalid"`.
            content: the query or the answer; what the policy wrote instead of an action, if the turn is invalid.
            text: the policy's own text of this turn, for the transcript. None: the action in the protocol's form,
                without characters that the protocol cannot hold, such as tags inside an answer.

        Returns:
            The search to run (pass its result to `observe`), or the `Step` of a turn that needs no search.

        Raises:
            EpisodeError: the episode is over, or a search is pending.
            ConfigError: the kind is unknown, or the content or the text is not a string.
        """
        self._check_ready()
        if kind not in get_args(ActionKind):
            raise unknown_name("kind of action", kind, get_args(ActionKind))
        if not isinstance(content, str):
            raise ConfigError(f"the content of an action must be a string, got {type(content).__name__}.")
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"the text of an action must be a string or None, got {type(text).__name__}.")
        written = content if text is None else text
        if len(written) > self.rules.max_action_chars:
            return self._end(StopReason.TOO_LONG, written, "invalid")
        if kind == "search":
            action, render = query_action(content), self.rules.protocol.render_search
        elif kind == "answer":
            action, render = answer_action(content), self.rules.protocol.render_answer
        else:
            action, render = INVALID, str
        return self._take(action, render(content) if text is None else text)

    def observe(self, result: SearchResult) -> Step:
        """Take the result of the pending search. A failed search ends the episode (`ENGINE_ERROR`).

        Raises:
            EpisodeError: no search is pending.
        """
        if self._pending is None:
            raise EpisodeError("no search is pending; call advance(action_text) first.")
        action_text, request, end = self._pending
        self._pending = None
        if result.failure is not None:
            return self._end(
                StopReason.ENGINE_ERROR,
                action_text,
                "search",
                end=end,
                query=request.query,
                noisy=request.noisy,
                error=result.failure,
            )
        rules = self.rules
        documents = tuple(result.documents[: request.top_k])
        observation = rules.protocol.render_documents(documents, request.query)
        turns = len(self._turns) + 1
        if turns == rules.max_turns:
            observation += rules.last_turn_notice
        step = Step(
            observation,
            "search",
            turns,
            self.noise_level,
            request.query,
            documents,
            request.noisy,
            self._find_answer,
        )
        self._turns.append((action_text, step, end))
        return step

    def stop(self, reason: StopReason, action_text: str = "", error: str | None = None) -> Step:
        """End the episode from outside, for example when the policy's token budget is used up.

        Args:
            reason: a reason that truncates (only the policy's own turn can terminate an episode).
            action_text: the part of this turn that the policy has written. Ignored if a search is pending, because the
                text of that turn is already known.
            error: an error message, if something went wrong.

        Raises:
            EpisodeError: the episode is over, or the reason is one that terminates.
        """
        if self.stop_reason is not None:
            raise EpisodeError(f"the episode is over ({self.stop_reason.value}); it cannot be stopped again.")
        if reason.terminates:
            raise EpisodeError(f"{reason!r} is not allowed here: only the policy's own turn terminates an episode.")
        if self._pending is None:
            return self._end(reason, action_text, "invalid", error=error)
        pending_text, request, end = self._pending
        self._pending = None
        return self._end(reason, pending_text, "search", end=end, query=request.query, noisy=request.noisy, error=error)

    def _check_ready(self) -> None:
        """Raise an `EpisodeError` unless it is the policy's turn."""
        if self.stop_reason is not None:
            raise EpisodeError(f"the episode is over ({self.stop_reason.value}); start a new one.")
        if self._pending is not None:
            raise EpisodeError("a search is pending; call observe(result) before the next advance.")

    def _take(self, action: ParsedAction, action_text: str) -> SearchRequest | Step:
        """Apply the rules to one action of the policy."""
        kind = action.kind
        end = None if action.end == len(action_text) else action.end
        if kind == "answer":
            return self._end(StopReason.ANSWER, action_text, kind, end=end, prediction=action.content)
        rules = self.rules
        turns = len(self._turns)
        query = action.content if kind == "search" else None
        if query is not None and len(query) > rules.max_query_chars:
            query = query[: rules.max_query_chars].rstrip()
        if turns >= rules.max_turns:
            return self._end(StopReason.MAX_TURNS, action_text, kind, end=end, query=query)
        if query is not None:
            request = self._request(query)
            self._pending = (action_text, request, end)
            return request
        notice = rules.invalid_notice
        if notice is None:
            return self._end(StopReason.NO_ACTION, action_text, kind, end=end)
        if turns + 1 == rules.max_turns:
            notice += rules.last_turn_notice
        step = Step(notice, "invalid", turns + 1, self.noise_level)
        self._turns.append((action_text, step, end))
        return step

    def _request(self, query: str) -> SearchRequest:
        rules, level, seed, search = self.rules, self.noise_level, self.seed, self.searches
        self.searches = search + 1
        noisy: bool | tuple[bool, ...]
        if rules.noise_unit == "search":
            # u is in [0, 1), so the levels 0 and 1 need no draw.
            noisy = level > 0.0 and (level >= 1.0 or uniform2(seed, search, 0) < level)
        else:
            noisy = tuple([level > 0.0 and uniform2(seed, search, j) < level for j in range(rules.top_k)])
        question = self.question
        return SearchRequest(
            query,
            question.text,
            question.answers,
            noisy,
            rules.top_k,
            split(seed, search),
            question.paragraphs,
            question.steps if question.metadata else (),
        )

    def _end(
        self,
        reason: StopReason,
        action_text: str,
        action: ActionKind,
        *,
        end: int | None = None,
        prediction: str | None = None,
        query: str | None = None,
        noisy: bool | tuple[bool, ...] | None = None,
        error: str | None = None,
    ) -> Step:
        answers, rules = self.question.answers, self.rules
        em, f1, subem = score(prediction, answers)
        default = rules.reward is exact_match
        unicode_scores = unicode_score(prediction, answers)
        scores = Scores(prediction, answers, em, f1, subem, em if default else 0.0, self.searches, *unicode_scores)
        turn, level = len(self._turns) + 1, self.noise_level
        step = Step("", action, turn, level, query, (), noisy, None, reason, scores, error)
        self.stop_reason = reason
        self._turns.append((action_text, step, end))
        if not default or rules.scores:
            self._pay(step, scores)
        return step

    def _pay(self, step: Step, scores: Scores) -> None:
        """Compute the reward and the additional scores, which may read the episode with its last turn.

        After an engine failure there is nothing to pay or to score. A reward without a value counts as one.
        """
        rules = self.rules
        failed = step.stop_reason is StopReason.ENGINE_ERROR
        if not failed:
            try:
                scores.reward = pay(rules.reward, self)
            except UnjudgedError as unjudged:
                self.stop_reason = step.stop_reason = StopReason.ENGINE_ERROR
                step.error = str(unjudged)
        scores.extra = tuple([(name, None if failed else self._score(score)) for name, score in rules.scores])

    def _score(self, score: Reward) -> float | None:
        try:
            return pay(score, self)
        except UnjudgedError:
            return None
