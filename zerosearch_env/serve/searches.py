"""Turn a parsed request into engine requests (defaults, limits, gold answers, noise), and guard noisy results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..checks import check_whole_number
from ..engines.guard import remove_answers
from ..engines.kinds.makers import KEEPS_ANSWERS
from ..errors import ConfigError, EngineError
from ..game.answers import contains_answer
from ..game.noise import Schedule, check_level
from ..game.noise_kinds import NoiseKinds, split_kind
from ..randomness import mix, split, text_seed, uniform
from ..retrieve_api.bodies import ParsedRequest, RequestedSearch
from ..retrieve_api.codec import RequestError
from ..types import Document, Question, SearchRequest, SearchResult, full_text
from .questions import KnownQuestions

_NO_QUESTION = -1
"""Represents a missing question in the derivation of a seed; hashes of strings are never negative."""


class RequestDefaults:
    """Builds the engine's requests, and draws the noise of searches that do not specify it.

    A search's seed is a function of the server's seed, the query, the question, and the `seed` in the request, or the
    next value of a counter if the request has none. The search is noisy if and only if a uniform number drawn from that
    seed is below the noise level. So a request with a `seed` is reproducible, and the searches that are noisy at one
    level are also noisy at every higher level. The kind of noise is drawn separately. All searches for a question
    state the same wrong answer, where the kind has one: the server does not know which of them belong to one episode.

    Args:
        top_k: documents per query, for requests that do not specify it.
        max_top_k: maximum that a request may ask for.
        noise: a level in [0, 1], or a schedule: progress in [0, 1] -> level.
        noise_kinds: what noisy searches return, in stages over the progress; None: distractors.
        curriculum_searches: number of searches until a schedule's progress is 1.
        seed: the server's seed.
        questions: known questions; a request that names one, or whose query contains one, gets its answers, steps and
            paragraphs filled in. Other noisy searches get the answers of the questions closest to the query as
            `SearchRequest.guarded`.
        required: fields of `SearchRequest` that the engine needs: any of `"question"` and `"answers"`.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        *,
        top_k: int = 5,
        max_top_k: int = 100,
        noise: float | Schedule = 0.0,
        noise_kinds: NoiseKinds | None = None,
        curriculum_searches: int = 10_000,
        seed: int = 0,
        questions: Sequence[Question] = (),
        required: Collection[str] = (),
    ) -> None:
        if not 1 <= top_k <= max_top_k:
            raise ConfigError(f"top_k must be from 1 to max_top_k={max_top_k}, got {top_k}")
        self._top_k = top_k
        self._max_top_k = max_top_k
        self._noise = noise if callable(noise) else check_level(noise)
        self._noise_kinds = noise_kinds or NoiseKinds()
        self._curriculum_searches = check_whole_number("curriculum_searches", curriculum_searches)
        self._seed = seed
        self._questions = KnownQuestions(questions)
        if self._noise:
            self._questions.build()
        self._required = frozenset(required)
        self._count = 0

    @property
    def noise_level(self) -> float:
        """Probability that the next search is noisy if its request does not specify `noisy`."""
        return self._noise(self._progress) if callable(self._noise) else self._noise

    @property
    def _progress(self) -> float:
        return min(1.0, self._count / self._curriculum_searches)

    def make(self, parsed: ParsedRequest, question: str | None = None) -> list[SearchRequest]:
        """Build the engine's requests, one per query, in order.

        Args:
            parsed: the parsed body.
            question: text or id of the question of all queries for which the body gives none.

        Raises:
            RequestError: too many documents are requested, a noise mask has the wrong length, or a field that the
                engine needs is missing.
        """
        top_k = self._top_k if parsed.top_k is None else parsed.top_k
        if top_k > self._max_top_k:
            raise RequestError(f"this server returns at most {self._max_top_k} documents per query, got {top_k}")
        return [self._request(search, top_k, question) for search in parsed.searches]

    def _request(self, search: RequestedSearch, top_k: int, default: str | None) -> SearchRequest:
        name = default if search.question is None else search.question
        known = self._questions.in_query(search.query) if name is None else self._questions.named(name)
        text = name if known is None else known.text
        answers = known.answers if search.answers is None and known is not None else search.answers
        self._check_required({"question": text, "answers": answers})
        if isinstance(search.noisy, tuple) and len(search.noisy) != top_k:
            raise RequestError(f"'noisy' holds {len(search.noisy)} flags for {top_k} documents per query")
        level, mixture = self.noise_level, self._noise_kinds.at(self._progress)
        number = self._count if search.seed is None else search.seed
        self._count += 1
        question = _NO_QUESTION if text is None else text_seed(text)
        # The last component distinguishes a given seed from a counter of the same value.
        seed = mix(self._seed, text_seed(search.query), question, number, search.seed is None)
        noisy = uniform(seed, 0) < level if search.noisy is None else search.noisy
        kind = mixture.draw(seed, 0)
        guard = not answers and (noisy if isinstance(noisy, bool) else any(noisy))
        return SearchRequest(
            query=search.query,
            question=text or "",
            answers=answers or (),
            noisy=noisy,
            top_k=top_k,
            seed=split(seed, 1),
            paragraphs=None if known is None else known.paragraphs,
            steps=() if known is None else known.steps,
            noise_kind=kind,
            episode_seed=mix(self._seed, question),
            guarded=self._questions.answers_near(search.query) if guard and _is_guarded(kind) else (),
        )

    def _check_required(self, given: Mapping[str, Any]) -> None:
        missing = sorted(name for name in self._required if not given.get(name))
        if missing:
            fields = " and ".join(map(repr, missing))
            raise RequestError(
                f"the search engine needs {fields} with every query: send "
                "'question' (or 'questions', one per query) and 'answers', or start the server with the --dataset that "
                "holds the question"
            )


def _is_guarded(kind: str) -> bool:
    return split_kind(kind)[0] not in KEEPS_ANSWERS


def guarded_documents(request: SearchRequest, result: SearchResult) -> tuple[Document, ...]:
    """The documents of a result; from noisy ones, the answers of `request.guarded` are removed.

    The engines of this package choose other documents. This is for those that do not know `guarded`: engines of other
    authors, other retrieval servers, and simulation LLMs, which write without looking at it.

    Raises:
        EngineError: no document would be left.
    """
    documents = tuple(result.documents[: request.top_k])
    if not request.guarded or not documents:
        return documents
    # With fewer documents than slots it is not known which slots are empty.
    mask = request.noise_mask if len(documents) == request.top_k else (True,) * len(documents)
    kept = [
        remove_answers(document, request.guarded)
        if noise and contains_answer(full_text(document), request.guarded)
        else document
        for document, noise in zip(documents, mask, strict=True)
    ]
    left = tuple(document for document in kept if document is not None)
    if not left:
        raise EngineError(
            f"the noisy result for {request.query[:80]!r} consists of answers to questions of the server's dataset"
        )
    return left
