"""The rules of the game as a state machine without input or output.

    episode = Episode(question, rules, noise_level=0.25, seed=7)
    episode.prompt                              # text for the policy
    outcome = episode.advance(action_text)      # a SearchRequest, or the Step of a turn that needs no search
    step = episode.observe(search_result)       # after a SearchRequest

In protocols with tools one turn may search several times: then `advance` returns a tuple of requests, and `observe`
takes as many results.

                 advance(text)                           observe(result)
    waiting for the policy  --- SearchRequest --->  search pending  --- Step --->  waiting for the policy
             |                                            |
             +-- Step: answer, invalid turn, last turn    +-- Step: the engine failed, the episode is over

The caller runs the searches, one at a time or in batches, whenever it likes. The environment, the vector environment,
the trainer's rollouts and the evaluation all use these two methods, and the rules are one file, so none is written
twice. An agent that calls tools has no text to parse: `advance_action("search", query)` takes its turn instead of
`advance(text)`.

All randomness is a function of (seed, search, document). It depends neither on other episodes nor on the order in which
searches return, and with the same seed a higher noise level gives a superset of the noisy searches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import index
from typing import Literal

from ..errors import ConfigError, DataError, EpisodeError, UnjudgedError, unknown_name
from ..protocols import INVALID, ParsedAction, ToolCall
from ..protocols.base import clean_message
from ..protocols.tags import answer_action, query_action
from ..protocols.tools import render_results
from ..randomness import split, uniform2
from ..types import (
    ActionKind,
    Document,
    JsonObject,
    Question,
    Scores,
    Searched,
    SearchRequest,
    SearchResult,
    Step,
    StopReason,
    Turn,
)
from .answers import documents_contain_answer
from .noise import check_level
from .noise_kinds import DISTRACTOR, NoiseMixture, is_noisy
from .reward_registry import Reward, pay
from .rewards import answer_key, exact_match, score
from .rules import Rules
from .unicode_scores import unicode_score

GIVEN_KINDS: tuple[ActionKind, ...] = ("search", "answer", "invalid")
"""The kinds of actions that `Episode.advance_action` takes."""

Outcome = SearchRequest | tuple[SearchRequest, ...] | Step
"""What `Episode.advance` returns: the search to run, several of them, or the step of a turn that needs none."""
Messages = tuple[tuple[Literal["tool", "user"], str], ...]


_UNSCORED = (math.nan, math.nan, math.nan)
"""The EM, F1 and subEM of an answer to a question without gold answers."""


def _state_answer(answers: Sequence[str], documents: Sequence[Document]) -> bool:
    return documents_contain_answer(documents, answers)


class Episode:
    """One question played by one policy. The module's docstring shows how to use it.

    Attributes:
        question: the question.
        rules: the rules, shared by all episodes of an environment.
        noise_level: probability in [0, 1] that a search (or a document, by `rules.noise_unit`) is noisy.
        noise_kinds: what noisy searches return.
        seed: 64-bit integer from which every draw of this episode is derived.
        prompt: the first text for the policy.
        searches: number of searches made so far.
        stop_reason: why the episode ended; None while it is running.
        tokens: how many tokens the model that plays has read and written, over all turns; None unless its player
            counts them.
    """

    __slots__ = (
        "_calls",
        "_find_answer",
        "_kinds",
        "_requests",
        "_turns",
        "_written",
        "_written_end",
        "_wrong_answers",
        "noise_kinds",
        "noise_level",
        "prompt",
        "question",
        "rules",
        "searches",
        "seed",
        "stop_reason",
        "tokens",
    )

    def __init__(
        self,
        question: Question,
        rules: Rules,
        *,
        noise_level: float = 0.0,
        noise_kinds: NoiseMixture = DISTRACTOR,
        seed: int = 0,
    ) -> None:
        """Start an episode.

        Raises:
            DataError: the question has no answers although the rules require them or there is noise, or no prompt
                although the rules take it from the dataset.
            ConfigError: the noise level is not a number in [0, 1].
        """
        if not question.answers and rules.answers_required:
            raise DataError(f"question {question.id!r} has no answers; every question needs at least one.")
        self.question = question
        self.rules = rules
        self.noise_level = check_level(noise_level)
        self.noise_kinds = DISTRACTOR if noise_kinds == DISTRACTOR else noise_kinds
        if not question.answers and self.noise_level > 0:
            raise DataError(
                f"question {question.id!r} has no gold answers, so noisy documents cannot be kept free of the answer: "
                "use noise level 0, or give the answers."
            )
        self.seed = index(seed)  # a Python int: numpy integers would overflow in `mix`
        self.prompt = rules.prompt(question)
        self._find_answer = partial(_state_answer, question.answers) if question.answers else None
        self.restart()

    def restart(self) -> None:
        """Begin again with the same draws, as if nothing had been played."""
        self.searches = 0
        self.stop_reason: StopReason | None = None
        self.tokens: tuple[int, int] | None = None
        self._turns: list[tuple[str, Step, int | None]] = []
        self._kinds: list[str | None] = []  # of each search so far
        self._wrong_answers: tuple[str, ...] = ()
        # The pending searches, and the turn that they belong to: its text, the end of its action, its calls.
        self._requests: tuple[SearchRequest, ...] = ()
        self._written = ""
        self._written_end: int | None = None
        self._calls: tuple[ToolCall, ...] = ()

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
        return bool(self._requests)

    @property
    def requests(self) -> tuple[SearchRequest, ...]:
        """The pending searches, in order; empty if none is pending."""
        return self._requests

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

    def advance(self, action_text: str) -> Outcome:
        """Take the policy's text of one turn.

        Returns:
            The search to run (pass its result to `observe`), several of them as a tuple (in protocols with tools), or
            the `Step` of a turn that needs no search.

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

    def advance_action(self, kind: ActionKind, content: str, text: str | None = None) -> Outcome:
        """Take one turn of the policy as an action instead of a text. Nothing is parsed.

        The rules are those of `advance`: the query is cleaned, and an empty query or answer is an invalid turn. The
        answer is scored as it is given.

        Args:
            kind: `"search"`, `"answer"` or `"invalid"`.
            content: the query or the answer; what the policy wrote instead of an action, if the turn is invalid.
            text: the policy's own text of this turn, for the transcript. None: the action in the protocol's form,
                without characters that the protocol cannot hold, such as tags inside an answer.

        Returns:
            As `advance`.

        Raises:
            EpisodeError: the episode is over, or a search is pending.
            ConfigError: the kind is unknown, or the content or the text is not a string.
        """
        self._check_ready()
        if kind not in GIVEN_KINDS:
            raise unknown_name("kind of action", kind, GIVEN_KINDS)
        if not isinstance(content, str):
            raise ConfigError(f"the content of an action must be a string, got {type(content).__name__}.")
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"the text of an action must be a string or None, got {type(text).__name__}.")
        written = content if text is None else text
        if len(written) > self.rules.max_action_chars:
            return self._end(StopReason.TOO_LONG, written, "invalid")
        protocol = self.rules.protocol
        if kind == "search":
            action, render = query_action(content), protocol.render_search
            if protocol.render_call is not None:
                action = protocol.parse(render(content))  # with its call, which the observation may show
        elif kind == "answer":
            action, render = answer_action(content), protocol.render_answer
        else:
            action, render = INVALID, str
        return self._take(action, render(content) if text is None else text, whole=True)

    def observe(self, result: SearchResult | Sequence[SearchResult]) -> Step:
        """Take the result of the pending search. A failed search ends the episode (`ENGINE_ERROR`).

        Args:
            result: the result; for several searches as many results, in the order of the requests.

        Raises:
            EpisodeError: no search is pending, or the number of results is not the number of searches.
        """
        requests = self._requests
        if not requests:
            raise EpisodeError("no search is pending; call advance(action_text) first.")
        if not isinstance(result, SearchResult) and len(result) == 1:
            result = result[0]
        if self._calls or len(requests) > 1 or not isinstance(result, SearchResult):
            return self._observe_all((result,) if isinstance(result, SearchResult) else tuple(result))
        self._requests = ()
        action_text, end = self._written, self._written_end
        if result.failure is not None:
            return self._end(
                StopReason.ENGINE_ERROR, action_text, "search", end=end, requests=requests, error=result.failure
            )
        rules = self.rules
        request = requests[0]
        documents = tuple(result.documents[: request.top_k])
        if result.message is None:
            observation = rules.protocol.render_documents(documents, request.query)
        else:
            documents, observation = (), rules.protocol.show_message(result.message, request.query)
        if result.wrong_answers:
            self._wrong_answers += result.wrong_answers
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
        if self.noise_kinds is not DISTRACTOR:
            step.searches = self._searched(requests, (documents,), (result,))
        self._turns.append((action_text, step, end))
        return step

    def _observe_all(self, results: Sequence[SearchResult]) -> Step:
        """`observe` for any number of searches, and for the calls of protocols with tools."""
        action_text, requests, end, calls = self._written, self._requests, self._written_end, self._calls
        if len(results) != len(requests):
            raise EpisodeError(f"{len(requests)} searches are pending, got {len(results)} results: pass one for each.")
        self._requests = ()
        failure = next((result.failure for result in results if result.failure is not None), None)
        if failure is not None:
            return self._end(StopReason.ENGINE_ERROR, action_text, "search", end=end, requests=requests, error=failure)
        groups = tuple(
            tuple(result.documents[: request.top_k]) if result.message is None else ()
            for request, result in zip(requests, results, strict=True)
        )
        self._wrong_answers += tuple(chain.from_iterable(result.wrong_answers for result in results))
        if calls:
            observation, messages = self._tell(calls, groups, [result.message for result in results])
        else:
            protocol = self.rules.protocol
            observation = "".join(
                protocol.render_documents(group, request.query)
                if result.message is None
                else protocol.show_message(result.message, request.query)
                for request, group, result in zip(requests, groups, results, strict=True)
            )
            observation, messages = self._with_notice(observation, ())
        documents = tuple(chain.from_iterable(groups))
        step = Step(
            observation,
            "search",
            len(self._turns) + 1,
            self.noise_level,
            "; ".join([request.query for request in requests]),
            documents,
            _any_noisy(requests),
            self._find_answer,
            searches=self._searched(requests, groups, results),
            messages=messages,
        )
        self._turns.append((action_text, step, end))
        return step

    def _searched(
        self,
        requests: Sequence[SearchRequest],
        groups: Sequence[tuple[Document, ...]],
        results: Sequence[SearchResult],
    ) -> tuple[Searched, ...] | None:
        """`Step.searches` of the searches of this turn, which are the last ones so far."""
        if len(requests) == 1 and self.noise_kinds is DISTRACTOR:
            return None
        kinds = self._kinds[-len(requests) :]
        return tuple(
            [
                Searched(request.query, request.noisy, group, kind, result.message, result.wrong_answers)
                for request, group, kind, result in zip(requests, groups, kinds, results, strict=True)
            ]
        )

    def _tell(
        self,
        calls: Sequence[ToolCall],
        groups: Sequence[tuple[Document, ...]] = (),
        failures: Sequence[str | None] = (),
    ) -> tuple[str, Messages]:
        """The observation after the calls of a turn, as text and as messages.

        Args:
            calls: the calls.
            groups: the documents of each search.
            failures: for each search the message of the failed tool, or None.
        """
        protocol = self.rules.protocol
        assert protocol.render_call is not None
        contents: list[str] = []
        left, failed = iter(groups), iter(failures)
        for call in calls:
            if failure := next(filter(None, [next(failed) for _ in call.queries]), None):
                call = replace(call, error=clean_message(failure))
            shown = [next(left) for _ in call.queries] or [self._shown(page) for page in call.pages]
            contents.append(protocol.render_call(call, shown))
        messages: Messages = tuple(("tool", content) for content in contents)
        return self._with_notice(render_results(protocol.call_tags, contents), messages)

    def _with_notice(self, observation: str, messages: Messages) -> tuple[str, Messages]:
        """The observation of this turn with the notice that the next one may only answer, if that is so."""
        rules = self.rules
        if len(self._turns) + 1 == rules.max_turns:
            observation += rules.last_turn_notice
            messages += _as_message(rules, rules.last_turn_notice)
        return observation, messages

    def _shown(self, page: str) -> tuple[Document, ...]:
        """The documents with this source, or else with this title, that the episode has shown; each of them once."""
        shown = dict.fromkeys(document for _, step, _ in self._turns for document in step.documents)
        found = [document for document in shown if document.source == page]
        return tuple(found or [document for document in shown if document.title == page])

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
        requests = self._requests
        if not requests:
            return self._end(reason, action_text, "invalid", error=error)
        self._requests = ()
        return self._end(reason, self._written, "search", end=self._written_end, requests=requests, error=error)

    def _check_ready(self) -> None:
        """Raise an `EpisodeError` unless it is the policy's turn."""
        if self.stop_reason is not None:
            raise EpisodeError(f"the episode is over ({self.stop_reason.value}); start a new one.")
        if self._requests:
            raise EpisodeError("a search is pending; call observe(result) before the next advance.")

    def _take(self, action: ParsedAction, action_text: str, *, whole: bool = False) -> Outcome:
        """Apply the rules to one action of the policy; `whole`: all of its text belongs to the action."""
        kind = action.kind
        end = None if whole or action.end == len(action_text) else action.end
        if kind == "answer":
            return self._end(StopReason.ANSWER, action_text, kind, end=end, prediction=action.content)
        rules = self.rules
        turns = len(self._turns)
        query = action.content if kind == "search" else None
        if query is not None and len(query) > rules.max_query_chars:
            query = query[: rules.max_query_chars].rstrip()
        if turns >= rules.max_turns:
            return self._end(StopReason.MAX_TURNS, action_text, kind, end=end, query=query)
        if query is not None and not action.calls:
            request = self._request(query)
            self._requests, self._calls = (request,), ()
            self._written, self._written_end = action_text, end
            return request
        if query is not None:
            requests = tuple([self._request(one[: rules.max_query_chars].rstrip()) for one in action.queries])
            self._requests, self._calls = requests, action.calls
            self._written, self._written_end = action_text, end
            return requests if len(requests) > 1 else requests[0]
        if action.calls:
            return self._answer_calls(kind, action.calls, action_text, end)
        notice = rules.invalid_notice
        if notice is None:
            return self._end(StopReason.NO_ACTION, action_text, kind, end=end)
        observation, messages = self._with_notice(notice, _as_message(rules, notice))
        step = Step(observation, "invalid", turns + 1, self.noise_level, messages=messages)
        self._turns.append((action_text, step, end))
        return step

    def _answer_calls(self, kind: ActionKind, calls: tuple[ToolCall, ...], action_text: str, end: int | None) -> Step:
        """The step of a turn whose calls need no search: they read pages again, or cannot be carried out."""
        observation, messages = self._tell(calls)
        documents = tuple(chain.from_iterable(self._shown(page) for call in calls for page in call.pages))
        found = self._find_answer if documents else None
        step = Step(
            observation, kind, len(self._turns) + 1, self.noise_level, None, documents, None, found, messages=messages
        )
        self._turns.append((action_text, step, end))
        return step

    def _request(self, query: str) -> SearchRequest:
        rules, level, seed, search = self.rules, self.noise_level, self.seed, self.searches
        self.searches = search + 1
        noisy: bool | tuple[bool, ...]
        kind = self.noise_kinds.draw(seed, search)
        if rules.noise_unit == "search":
            # u is in [0, 1), so the levels 0 and 1 need no draw.
            noisy = level > 0.0 and (level >= 1.0 or uniform2(seed, search, 0) < level)
        else:
            noisy = tuple([level > 0.0 and uniform2(seed, search, j) < level for j in range(rules.top_k)])
        self._kinds.append(kind if is_noisy(noisy) else None)
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
            kind,
            seed,
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
        requests: tuple[SearchRequest, ...] = (),
        error: str | None = None,
    ) -> Step:
        answers, rules = self.question.answers, self.rules
        em, f1, subem = score(prediction, answers) if answers else _UNSCORED
        default = rules.reward is exact_match or not answers
        unicode_scores = unicode_score(prediction, answers) if answers else _UNSCORED[:2]
        scores = Scores(prediction, answers, em, f1, subem, em if default else 0.0, self.searches, *unicode_scores)
        scores.noise_kind = tuple(self._kinds)
        scores.counterfactual = next(iter(self._wrong_answers), None)
        if not answers:
            scores.misled = scores.abstained = scores.hallucinated = math.nan
        elif prediction and not em:
            key = answer_key(prediction)
            scores.misled = float(key in map(answer_key, self._wrong_answers))
            scores.abstained = float(key in rules.abstention_keys)
            scores.hallucinated = 1.0 - scores.abstained
        turn, level = len(self._turns) + 1, self.noise_level
        noisy = searches = None
        if requests:  # searches without a result
            query, noisy = "; ".join([request.query for request in requests]), _any_noisy(requests)
            searches = self._searched(requests, [()] * len(requests), [SearchResult(())] * len(requests))
        step = Step("", action, turn, level, query, (), noisy, None, reason, scores, error, searches)
        self.stop_reason = reason
        self._turns.append((action_text, step, end))
        if answers and (not default or rules.scores):
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


def _as_message(rules: Rules, notice: str) -> Messages:
    """A notice as a chat message; none if the protocol's observations are not messages, or the notice is empty."""
    text = notice.strip()
    return (("user", text),) if text and rules.protocol.observation_role == "tool" else ()


def _any_noisy(requests: Sequence[SearchRequest]) -> bool | tuple[bool, ...]:
    """`Step.noisy` of several searches: whether any was noisy, or the flags of all their documents."""
    flags = [request.noisy for request in requests]
    if len(flags) == 1:
        return flags[0]
    if isinstance(flags[0], bool):
        return any(flags)
    return tuple(chain.from_iterable(flag for flag in flags if isinstance(flag, tuple)))
