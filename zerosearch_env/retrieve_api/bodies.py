"""Parse a request body of any dialect into one record, and write the fields that only `zerosearch serve` reads.

Pure functions without I/O. The tables at the top list the names that different dialects use for the same field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import is_number, is_whole_number
from ..errors import unknown_name
from ..types import Json, JsonObject, SearchRequest
from .codec import RequestError, shown

TOP_K_FIELDS = ("topk", "top_k", "k", "top_n", "topk_rerank")
"""Documents per query; the first name present counts. Used by Search-R1, SkyRL and GEM; ZeroSearch
and rLLM; R1-Searcher and rLLM; ReSearch; Search-R1's reranking server."""

SCORE_FIELDS = ("return_scores", "return_score")
"""Whether to return scores: Search-R1, SkyRL and GEM; ReSearch."""

FIELDS = (
    *("query", "queries", "question", "questions", "answers", "noisy", "seed", "topk_retrieval"),
    *TOP_K_FIELDS,
    *SCORE_FIELDS,
)
"""Every field that a request may have. `topk_retrieval`, the depth of Search-R1's reranker, has no effect."""

Noise = bool | tuple[bool, ...] | None


@dataclass(frozen=True, slots=True)
class RequestedSearch:
    """One query of a request, with the caller's options for it."""

    query: str
    question: str | None = None
    """The question that the query belongs to, or None if not given."""
    answers: tuple[str, ...] | None = None
    """The accepted answers of the question, or None if not given."""
    noisy: Noise = None
    """Noise for the whole result, or one flag per document; None uses the server's noise level."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request, independent of its dialect."""

    searches: tuple[RequestedSearch, ...]
    single: bool
    """True if the query was a string, False if it was a list (even of one)."""
    top_k: int | None
    """Documents per query; None uses the server's default."""
    scores: bool | None
    """Whether to return scores; None uses the dialect's default."""

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries, in order."""
        return tuple(search.query for search in self.searches)


def parse(body: JsonObject, *, single: bool | None = None) -> ParsedRequest:
    """Parse a request's body. Unknown fields are refused: a misspelt one would be ignored silently.

    In addition to the dialects' fields, these are read, for engines that can use them:

    - `question` (one string for all queries) or `questions` (a list, one per query);
    - `answers`: a list of strings for `question`, a list of such lists for `questions`;
    - `noisy`: true or false for all queries, or a list with one entry per query; an entry may be a list with one flag
      per document. With a single `query`, a list holds one flag per document;
    - `seed` (one number for all queries, or a list): the same seed gives the same result.

    Args:
        body: the decoded body.
        single: whether to answer as for a single query; None decides by the query's type.

    Raises:
        RequestError: a field is unknown (the message suggests the nearest one), or has an invalid value.
    """
    for name in body:
        if name not in FIELDS:
            raise RequestError(str(unknown_name("field of a request", name, FIELDS)))
    queries, is_text = _queries(body)
    count = len(queries)
    questions = _questions(body, count)
    answers = _answers(body, count, one_question="questions" not in body)
    noise = _noise(body.get("noisy"), count, is_text)
    seeds = _seeds(body.get("seed"), count)
    rows = zip(queries, questions, answers, noise, seeds, strict=True)
    searches = tuple(RequestedSearch(*row) for row in rows)
    return ParsedRequest(searches, is_text if single is None else single, _top_k(body), _scores(body))


def context_of(requests: Sequence[SearchRequest], *, batch: bool) -> dict[str, Json]:
    """Return question, answers, noise and seed as fields that `parse` reads."""
    noisy = [request.noisy if isinstance(request.noisy, bool) else list(request.noisy) for request in requests]
    if not batch:
        (only,) = requests
        return {"question": only.question, "answers": list(only.answers), "noisy": noisy[0], "seed": only.seed}
    return {
        "questions": [request.question for request in requests],
        "answers": [list(request.answers) for request in requests],
        "noisy": noisy,
        "seed": [request.seed for request in requests],
    }


def _queries(body: JsonObject) -> tuple[tuple[str, ...], bool]:
    given = [name for name in ("queries", "query") if body.get(name) is not None]
    if len(given) != 1:
        what = "both" if given else f"the fields {sorted(map(str, body))}"
        raise RequestError(f"expected either 'queries' (a list of strings) or 'query' (a string), got {what}")
    name, value = given[0], body[given[0]]
    if isinstance(value, str):
        return (value,), True
    return _texts(value, f"{name!r}"), False


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"{what} must be a string or a list of strings, got {shown(value, 80)}")
    for position, text in enumerate(value):
        if not isinstance(text, str):
            raise RequestError(f"{what} must hold strings, got {shown(text, 80)} at position {position}")
    return tuple(value)


def _top_k(body: JsonObject) -> int | None:
    for name in TOP_K_FIELDS:
        value = body.get(name)
        if value is None:
            continue
        if not is_number(value) or value < 1 or value % 1:
            raise RequestError(f"{name!r} must be a whole number of at least 1, got {shown(value, 80)}")
        return int(value)
    return None


def _scores(body: JsonObject) -> bool | None:
    for name in SCORE_FIELDS:
        value = body.get(name)
        if value is not None:
            if not isinstance(value, bool):
                raise RequestError(f"{name!r} must be true or false, got {shown(value, 80)}")
            return value
    return None


def _questions(body: JsonObject, count: int) -> Sequence[str | None]:
    question, many = body.get("question"), body.get("questions")
    if question is not None and many is not None:
        raise RequestError("expected either 'question' (one for all queries) or 'questions' (one per query), got both")
    if many is not None:
        questions = _texts(many, "'questions'")
        _check_count("questions", len(questions), count)
        return questions
    if question is not None and not isinstance(question, str):
        raise RequestError(f"'question' must be a string, got {shown(question, 80)}; use 'questions' for a list")
    return (question,) * count


def _answers(body: JsonObject, count: int, *, one_question: bool) -> Sequence[tuple[str, ...] | None]:
    value = body.get("answers")
    if value is None:
        return (None,) * count
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise RequestError(f"'answers' must be a list, got {shown(value, 80)}")
    nested = [isinstance(entry, list | tuple) for entry in value]
    if value and all(nested):
        _check_count("answers", len(value), count)
        return [_texts(entry, f"'answers' at position {position}") for position, entry in enumerate(value)]
    if any(nested):
        raise RequestError("'answers' must hold strings, or a list of strings for each query; got both")
    if not one_question and count != 1:
        raise RequestError("with 'questions', 'answers' must be a list of strings for each query, got strings")
    return (_texts(value, "'answers'"),) * count


def _noise(value: object, count: int, is_text: bool) -> Sequence[Noise]:
    if value is None or isinstance(value, bool):
        return (value,) * count
    if not isinstance(value, list | tuple):
        raise RequestError(f"'noisy' must be true, false or a list of these, got {shown(value, 80)}")
    if is_text:
        return (_flags(value),)
    _check_count("noisy", len(value), count)
    return [entry if isinstance(entry, bool) else _flags(entry) for entry in value]


def _flags(value: object) -> tuple[bool, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(flag, bool) for flag in value):
        raise RequestError(f"'noisy' must hold true or false for each document, got {shown(value, 80)}")
    return tuple(value)


def _seeds(value: object, count: int) -> Sequence[int | None]:
    seeds: list[Any] = list(value) if isinstance(value, list | tuple) else [value] * count
    _check_count("seed", len(seeds), count)
    for seed in seeds:
        if seed is not None and not is_whole_number(seed):
            raise RequestError(f"'seed' must be a whole number or a list with one per query, got {shown(seed, 80)}")
    return seeds


def _check_count(name: str, got: int, expected: int) -> None:
    if got != expected:
        raise RequestError(f"{name!r} must hold one entry per query: expected {expected}, got {got}")
