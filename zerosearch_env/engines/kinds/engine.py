"""`KindsEngine`: kinds of noise around any search engine.

It asks the engine for the documents that a kind needs, and makes the noisy result from them (`makers.py`). So every
kind exists for every engine. Searches that are not noisy, and distractors, are those of the engine itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from ...errors import ConfigError, EngineError
from ...game.noise_kinds import NoiseKinds, split_kind
from ...types import Question, SearchRequest, SearchResult
from ..base import EngineParts, SearchEngine, engine_parts
from ..run import as_result, check_results, is_quick
from ..stats import SearchCounts
from .makers import NEEDS_ANSWERS, NEEDS_WRONG_ANSWERS, Maker, Sources, make_result


class KindsEngine(EngineParts):
    """An engine whose noisy results are of the kind that each request names (`SearchRequest.noise_kind`).

    - A request that is not noisy, or whose kind is `distractor`, is passed on unchanged.
    - A result depends on the request alone. The wrong answer of `counterfactual`, `mixed` and `injection` depends on
      the question and on `SearchRequest.episode_seed`, so all searches of an episode agree on it.
    - Results of `irrelevant`, `counterfactual`, `incomplete`, `injection`, `empty` and `outage` state no gold answer.
    - A batch is one call of the inner engine; a second one follows only if documents are missing.

    Closing it closes the inner engine.

    Args:
        engine: the inner engine.
        kinds: the kinds that will be requested.
        questions: the questions of the dataset.

    Raises:
        ConfigError: the dataset cannot give a kind; the message names the kind and a way out.
    """

    def __init__(self, engine: SearchEngine, kinds: NoiseKinds, questions: Sequence[Question]) -> None:
        names = {split_kind(kind)[0] for kind in kinds.kinds}
        parts = engine_parts(engine)
        self._engine = engine
        self._sources = Sources(questions, parts.written_kinds)
        _check_questions(names, self._sources)
        self._closed = False
        self.waits = parts.waits
        self.noise_kinds = frozenset(names | {"distractor"})
        needed = ("question", "answers") if names & NEEDS_ANSWERS else ()
        self.required_fields = tuple(dict.fromkeys((*parts.required_fields, *needed)))

    @property
    def engine(self) -> SearchEngine:
        """The inner engine."""
        return self._engine

    def is_made_for(self, kinds: NoiseKinds, questions: Sequence[Question]) -> bool:
        """Whether it gives all these kinds, with wrong answers from this very sequence of questions."""
        names = {split_kind(kind)[0] for kind in kinds.kinds}
        return names.issubset(self.noise_kinds) and self._sources.questions is questions

    def is_quick(self, requests: Sequence[SearchRequest]) -> bool:
        """That of the inner engine, which gets as many requests; see `EngineParts`."""
        return is_quick(self._engine, requests)

    def check_top_k(self, top_k: int, *, noise: bool = False) -> None:
        """That of the inner engine; see `EngineParts`."""
        engine_parts(self._engine).check_top_k(top_k, noise=noise)

    def try_out(self, questions: Sequence[Question], top_k: int) -> str | None:
        """That of the inner engine; see `EngineParts`."""
        return engine_parts(self._engine).try_out(questions, top_k)

    def identity(self) -> Mapping[str, str]:
        """That of the inner engine; see `EngineParts`."""
        return engine_parts(self._engine).identity()

    def stats(self) -> SearchCounts | None:
        """That of the inner engine; see `EngineParts`."""
        return engine_parts(self._engine).stats()

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order.

        Raises:
            EngineError: the engine is closed, or the inner engine failed.
            ConfigError: the inner engine rejected a request.
        """
        self._check_open()
        makers = [_start(request, self._sources) for request in requests]
        results: list[SearchResult | None] = [None] * len(requests)
        waiting = {number: _advance(maker, None) for number, maker in enumerate(makers)}
        while True:
            results_now = {number: step for number, step in waiting.items() if isinstance(step, SearchResult)}
            for number, result in results_now.items():
                results[number] = result
            asked = {number: step for number, step in waiting.items() if not isinstance(step, SearchResult)}
            if not asked:
                return [result for result in results if result is not None]
            found = iter(self._ask([request for batch in asked.values() for request in batch]))
            waiting = {
                number: _advance(makers[number], [next(found) for _ in batch]) for number, batch in asked.items()
            }

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request; the inner engine batches those of concurrent callers.

        Raises:
            EngineError: the engine is closed, or the inner engine failed.
            ConfigError: the inner engine rejected the request.
        """
        self._check_open()
        maker = _start(request, self._sources)
        step = _advance(maker, None)
        while not isinstance(step, SearchResult):
            found = await asyncio.gather(*map(self._engine.asearch, step))
            step = _advance(maker, self._checked(found, len(step)))
        return step

    def close(self) -> None:
        """Close this engine and the inner one. Calling it twice is fine."""
        self._closed = True
        self._engine.close()

    def _ask(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return self._checked(self._engine.search(requests), len(requests))

    def _checked(self, results: object, count: int) -> list[SearchResult]:
        """The results of the inner engine; makers read documents, so these must be what they should be."""
        name = type(self._engine).__name__
        return [as_result(self._engine, outcome) for outcome in check_results(name, results, count)]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"{type(self).__name__} is closed; build a new one to search again", attempts=0)


def _check_questions(names: Collection[str], sources: Sources) -> None:
    """Check that the dataset has what the kinds need.

    Raises:
        ConfigError: it does not.
    """
    questions = sources.questions
    if "irrelevant" in names and len(questions) < 2:
        raise ConfigError(
            f"noise_kind='irrelevant' shows documents for another question, and the dataset has {len(questions)}. "
            "Use a larger dataset, or another kind, such as 'distractor'."
        )
    needing = sorted(NEEDS_WRONG_ANSWERS.intersection(names))
    replacing = [name for name in needing if name != "injection"]
    if replacing and not sources.wrong_answers:
        raise ConfigError(
            f"noise_kind={replacing[0]!r} replaces answers by those of other questions, and the dataset has no answers "
            "except yes and no. Use another dataset, or a kind that needs no wrong answers, such as 'distractor' or "
            "'incomplete'."
        )
    if needing:
        sources.wrong_answers.check(questions, needing[0])


def _passing(request: SearchRequest) -> Maker:
    (result,) = yield [request]
    return result


def _start(request: SearchRequest, sources: Sources) -> Maker:
    noisy = request.noisy if isinstance(request.noisy, bool) else any(request.noisy)
    return make_result(request, sources) if noisy and request.noise_kind != "distractor" else _passing(request)


def _advance(maker: Maker, results: list[SearchResult] | None) -> list[SearchRequest] | SearchResult:
    """The next requests of a maker, or its result. An `EngineError` in it fails the search."""
    try:
        return next(maker) if results is None else maker.send(results)
    except StopIteration as done:
        result: SearchResult = done.value
        return result
    except EngineError as error:
        return SearchResult((), "noise", failure=str(error))
