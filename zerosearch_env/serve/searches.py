"""From what a request asks to what an engine is given: defaults, bounds, gold answers, and the noise of each search."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from ..game.noise import Schedule, check_level
from ..randomness import mix, split, text_seed, uniform
from ..retrieve_api.bodies import ParsedRequest, RequestedSearch
from ..retrieve_api.codec import RequestError
from ..types import Question, SearchRequest

_NO_QUESTION = -1
"""Stands for a missing question in the path of a seed; the hash of no text is negative."""


class RequestDefaults:
    """Makes the engine's requests, and draws the noise of those that do not say.

    The seed of a search is a function of (the server's seed, its query, its question, the `seed` it was sent with); a
    search without one gets the next number of a counter instead. It is noisy iff a uniform number drawn from that seed
    is below the noise level: with a `seed` a result can be asked for again, and at a higher level the noisy searches
    are a superset.

    Args:
        top_k: documents a query, for requests that do not say.
        max_top_k: the most that a request may ask for.
        noise: a level in [0, 1], or a schedule: progress in [0, 1] -> level.
        curriculum_searches: searches until a schedule's progress is 1.
        seed: the server's seed.
        questions: known questions; a request that names one gets its answers, steps and paragraphs filled in.
        required: fields of `SearchRequest` that the engine cannot do without, of `"question"` and `"answers"`.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        *,
        top_k: int = 5,
        max_top_k: int = 100,
        noise: float | Schedule = 0.0,
        curriculum_searches: int = 10_000,
        seed: int = 0,
        questions: Sequence[Question] = (),
        required: Collection[str] = (),
    ) -> None:
        if not 1 <= top_k <= max_top_k:
            raise ConfigError(f"top_k must be from 1 to max_top_k={max_top_k}, got {top_k}")
        if curriculum_searches < 1:
            raise ConfigError(f"curriculum_searches must be at least 1, got {curriculum_searches}")
        self._top_k = top_k
        self._max_top_k = max_top_k
        self._noise = noise if callable(noise) else check_level(noise)
        self._curriculum_searches = curriculum_searches
        self._seed = seed
        self._known: Mapping[str, Question] = {question.text: question for question in questions}
        self._required = frozenset(required)
        self._count = 0

    @property
    def noise_level(self) -> float:
        """The probability that the next search without a `noisy` of its own is noisy."""
        if callable(self._noise):
            return self._noise(min(1.0, self._count / self._curriculum_searches))
        return self._noise

    def make(self, asked: ParsedRequest) -> list[SearchRequest]:
        """The engine's requests, one a query, in order.

        Raises:
            RequestError: too many documents are asked for, a noise mask has another length, or the engine needs a
                field that is missing.
        """
        top_k = self._top_k if asked.top_k is None else asked.top_k
        if top_k > self._max_top_k:
            raise RequestError(f"at most {self._max_top_k} documents a query are served here, got {top_k}")
        return [self._request(search, top_k) for search in asked.searches]

    def _request(self, search: RequestedSearch, top_k: int) -> SearchRequest:
        known = self._known.get(search.question) if search.question is not None else None
        answers = known.answers if search.answers is None and known is not None else search.answers
        self._check_required({"question": search.question, "answers": answers})
        if isinstance(search.noisy, tuple) and len(search.noisy) != top_k:
            raise RequestError(f"'noisy' holds {len(search.noisy)} flags for {top_k} documents a query")
        level = self.noise_level
        number = self._count if search.seed is None else search.seed
        self._count += 1
        question = _NO_QUESTION if search.question is None else text_seed(search.question)
        # The last step keeps a given seed and a counter of the same value apart.
        seed = mix(self._seed, text_seed(search.query), question, number, search.seed is None)
        return SearchRequest(
            query=search.query,
            question=search.question or "",
            answers=answers or (),
            noisy=uniform(seed, 0) < level if search.noisy is None else search.noisy,
            top_k=top_k,
            seed=split(seed, 1),
            paragraphs=None if known is None else known.paragraphs,
            steps=() if known is None else known.steps,
        )

    def _check_required(self, given: Mapping[str, Any]) -> None:
        missing = sorted(name for name in self._required if not given.get(name))
        if missing:
            fields = " and ".join(map(repr, missing))
            raise RequestError(
                f"the search engine needs {fields} with every query: send "
                "'question' (or 'questions', one a query) and 'answers', or start the server with the --dataset that "
                "holds the question"
            )
