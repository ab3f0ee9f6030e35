"""`SimulatedEngine`: a language model plays the search engine, with a controlled amount of noise.

Useful documents answer the query; noisy documents share its topic and never contain a gold answer. The model's output
is parsed and checked, and resampled a bounded number of times. If there are still no usable documents, the search
fails; the engine itself never invents a document.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ...errors import EngineError
from ...llm.backend import AsyncBackend, Backend, Completion, Prompt
from ...llm.http.client import queued_since
from ...types import Question, SearchRequest, SearchResult
from ..base import check_mask
from ..cache import ResultCache, cache_key
from ..cached import CachedEngine
from .fitness import Fitness, fitness_requests, ways_out
from .prompts import KINDS_VERSION, WRITTEN_KINDS, PromptStyle
from .sets import DocumentSet, SimulationOptions, make_set
from .stats import SimulatorStats, counts_of
from .template import PromptTemplate


@dataclass
class _Job:
    """One requested set of documents."""

    request: SearchRequest
    noisy: bool
    options: SimulationOptions
    key: bytes = b""
    noise_kind: str = ""
    result: DocumentSet | None = field(default=None)


class SimulatedEngine(CachedEngine):
    """Asks a language model for the documents of each search.

    - The documents depend on the request alone, including its seed, and never on the rest of the batch.
    - With one noise flag per document, the engine makes a useful and a noisy set. Slot j holds the j-th document of the
      set of its kind, as if the whole search were of that kind.
    - A useful set without a gold answer is resampled and then accepted: at the first hop of a question the documents
      need not contain the final answer. A noisy set with a gold answer is resampled and then redacted. `stats` counts
      both cases.
    - With the prompts `"tuned"` and `"few-shot"`, noisy sets of the kinds `counterfactual` and `incomplete` have
      prompts of their own. The answers of a counterfactual request are wrong answers, which the documents state.

    Args:
        backend: completes the prompts.
        options: how documents are requested and checked.
        cache: a path, or an open cache; None turns caching off.
        probe: whether commands try four searches when they start (`try_out`).

    Raises:
        CacheError: the cache cannot be opened.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        options: SimulationOptions | None = None,
        cache: ResultCache | str | None = None,
        probe: bool = True,
    ) -> None:
        super().__init__(f"simulated:{backend.name}", cache)
        self._backend = backend
        self.waits = isinstance(backend, AsyncBackend)
        self._options = SimulationOptions() if options is None else options
        self._probe = probe
        style = self._options.style
        if isinstance(style, PromptStyle) and not style.terse:
            self.written_kinds = WRITTEN_KINDS

    def identity(self) -> Mapping[str, str]:
        """The model, by content if it is a local folder, and your own prompt; see `EngineParts`."""
        style = self._options.style
        own = {"the prompt of the simulation LLM": style.id} if isinstance(style, PromptTemplate) else {}
        return {"the simulation LLM": self._backend.identity, **own}

    def stats(self) -> SimulatorStats:
        """The counts so far, in this process; an immutable snapshot."""
        return self._snapshot(SimulatorStats)

    def try_out(self, questions: Sequence[Question], top_k: int) -> str | None:
        """Say in one line whether the model is fit, by four searches; None if the engine was made with `probe=False`.

        Raises:
            EngineError: none of the four was answered; the message says how to change that.
        """
        return self.check_fitness(questions, top_k)[1] if self._probe else None

    def check_fitness(self, questions: Sequence[Question], top_k: int) -> tuple[Fitness, str]:
        """Make the first samples of two useful and two noisy searches, without the cache and the counters.

        Args:
            questions: the first four with answers are asked; without any, questions of general knowledge.
            top_k: documents per search.

        Returns:
            The results, and the verdict in one line.

        Raises:
            EngineError: none of the four was answered; the message says how to change that.
        """
        self._check_open()
        once = replace(self._options, resamples=0, miss_resamples=0)
        jobs = [_Job(asked, bool(asked.noisy), once) for asked in fitness_requests(questions, top_k)]
        self._make(jobs)
        fitness = Fitness(tuple(job.result for job in jobs if job.result is not None))
        if not fitness.usable:
            raise EngineError(
                f"{self._name}: none of {len(jobs)} searches was answered with documents: the model is not fit. "
                f"{ways_out(self._options.prefill)}. To start anyway, set the engine's option probe to false. The "
                f"first failure: {next(iter(fitness.failures()), 'no completion')}"
            )
        return fitness, fitness.line(self._name, prefill=self._options.prefill)

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer a batch: one result per request, in order; `latency_s` is the time of the whole batch, in seconds.

        Raises:
            EngineError: the engine is closed, or its model failed.
            ConfigError: the length of a noise mask is not `top_k`, or the model cannot be loaded.
        """
        self._check_open()
        began = time.perf_counter()
        jobs: dict[bytes, _Job] = {}
        plans = [self._plan(request, jobs) for request in requests]
        made: list[_Job] = []
        try:
            made = self._missing(jobs)
            self._make(made)
        finally:
            self._keep(made)
        elapsed = time.perf_counter() - began
        return [self._result(request, plan, elapsed) for request, plan in zip(requests, plans, strict=True)]

    async def asearch(self, request: SearchRequest) -> SearchResult:
        """Answer one request: independently if the backend is a server, batched with other callers if it is local."""
        if not isinstance(self._backend, AsyncBackend):
            return await super().asearch(request)
        self._check_open()
        return await self._backend.loop.arun(self._answer(self._backend, request))

    def close(self) -> None:
        """Cancel pending requests, and release the model or the connections. Calling it twice is fine."""
        self._backend.close()  # first: what an interrupted batch has made is stored
        super().close()

    def _plan(self, request: SearchRequest, jobs: dict[bytes, _Job]) -> list[_Job]:
        """The sets that a request needs, useful before noisy; `jobs` collects the distinct sets of the whole batch."""
        plan = []
        for noisy in _kinds(request):
            kind = request.noise_kind if noisy and request.noise_kind in self.written_kinds else ""
            key = self._key(request, noisy, kind)
            plan.append(jobs.setdefault(key, _Job(request, noisy, self._options, key, kind)))
        return plan

    def _key(self, request: SearchRequest, noisy: bool, kind: str) -> bytes:
        options = self._options
        how = (options.style.id, options.temperature, options.top_p, options.max_tokens, options.resamples)
        more = (options.miss_resamples, options.max_query_chars, options.max_document_chars)
        frame = (options.system, options.prefill)
        what = (request.query, request.question, request.answers, request.steps, noisy, request.top_k, request.seed)
        written = (kind, KINDS_VERSION) if kind else ()
        return cache_key(self._name, self._model, *how, *more, *frame, *what, *written)

    @cached_property
    def _model(self) -> str:
        """The model's identity for cache keys; without a cache "", as hashing takes time."""
        return "" if self._cache is None else self._backend.identity

    def _missing(self, jobs: Mapping[bytes, _Job]) -> list[_Job]:
        """Fill jobs from the cache, and return the others."""
        for key, documents in self._look_up(list(jobs)).items():
            if len(documents) == jobs[key].request.top_k:
                jobs[key].result = DocumentSet(documents, jobs[key].noisy)
            else:  # the row is damaged
                self._counters.add(cache_hits=-1, cache_misses=1)
        return [job for job in jobs.values() if job.result is None]

    def _keep(self, jobs: Sequence[_Job]) -> None:
        """Count and store the finished sets; also called when the batch was interrupted."""
        made = {job.key: job.result for job in jobs if job.result is not None}
        for result in made.values():
            self._counters.add(**counts_of(result))
        self._store({key: result.documents for key, result in made.items() if result.failure is None})

    def _make(self, jobs: Sequence[_Job]) -> None:
        """Make all sets: concurrently on a server, in lockstep in this process."""
        if not isinstance(self._backend, AsyncBackend):
            self._in_step(jobs)
        elif jobs:
            self._backend.loop.run(self._gather(self._backend, jobs))

    def _in_step(self, jobs: Sequence[_Job]) -> None:
        """Make all sets in lockstep: send one prompt per unfinished set as a batch, and repeat until all are done."""
        makers = [(job, _set_of(job, self._name)) for job in jobs]
        waiting = [(job, maker, next(maker)) for job, maker in makers]
        while waiting:
            completions = self._backend.complete([prompt for _, _, prompt in waiting])
            going = []
            for (job, maker, _), completion in zip(waiting, completions, strict=True):
                try:
                    going.append((job, maker, maker.send(completion)))
                except StopIteration as done:
                    job.result = done.value
            waiting = going

    async def _gather(self, backend: AsyncBackend, jobs: Sequence[_Job]) -> None:
        # One worker per concurrent request of the server. All workers take their jobs from one iterator.
        waiting = iter(jobs)

        async def work() -> None:
            for job in waiting:
                await self._at_own_pace(backend, job)

        began = queued_since.set(time.monotonic())
        try:
            await asyncio.gather(*(work() for _ in range(min(len(jobs), backend.concurrency))))
        finally:
            queued_since.reset(began)

    async def _at_own_pace(self, backend: AsyncBackend, job: _Job) -> None:
        maker = _set_of(job, self._name)
        prompt = next(maker)
        while job.result is None:
            try:
                prompt = maker.send(await backend.acomplete(prompt))
            except StopIteration as done:
                job.result = done.value

    async def _answer(self, backend: AsyncBackend, request: SearchRequest) -> SearchResult:
        began = time.perf_counter()
        jobs: dict[bytes, _Job] = {}
        plan = self._plan(request, jobs)
        made = await self._off_loop(self._missing, jobs)
        await self._gather(backend, made)
        if made:
            await self._off_loop(self._keep, made)
        return self._result(request, plan, time.perf_counter() - began)

    def _result(self, request: SearchRequest, plan: Sequence[_Job], elapsed: float) -> SearchResult:
        sets = {job.noisy: job.result for job in plan if job.result is not None}
        if len(sets) < len(plan):
            raise EngineError(f"{type(self._backend).__name__}.complete returned fewer completions than prompts")
        attempts = max(1, sum(made.attempts for made in sets.values()))
        failure = next((made.failure for made in sets.values() if made.failure is not None), None)
        if failure is not None:
            self._counters.add(searches=1, failed_searches=1)
            return SearchResult((), self._name, elapsed, attempts, failure)
        mask = request.noise_mask
        documents = tuple(sets[noisy].documents[slot] for slot, noisy in enumerate(mask))
        self._counters.add(searches=1, documents=len(mask), noisy_documents=sum(mask))
        return SearchResult(documents, self._name, elapsed, attempts)


def _set_of(job: _Job, source: str) -> Generator[Prompt, Completion, DocumentSet]:
    return make_set(job.request, job.noisy, job.options, source=source, noise_kind=job.noise_kind)


def _kinds(request: SearchRequest) -> tuple[bool, ...]:
    """The kinds of sets that a request needs (False: useful, True: noisy), useful before noisy.

    Raises:
        ConfigError: `top_k` is below 1, or the length of the mask is not `top_k`.
    """
    check_mask(request)
    return tuple(sorted({bool(noisy) for noisy in request.noise_mask}))
