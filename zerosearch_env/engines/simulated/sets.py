"""Makes one set of documents: prompt, parse, check, and resample a bounded number of times.

The logic is a generator that does no I/O: it yields prompts, receives completions, and returns the set. So a server
can work on many sets concurrently and independently, and a local model can complete a batch of them in lockstep.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from ...checks import check_number, check_whole_number
from ...errors import ConfigError
from ...game.answers import contains_answer
from ...llm.backend import Completion, Prompt
from ...randomness import mix
from ...types import Document, SearchRequest, full_text
from ..corpus.tokens import words
from ..guard import remove_answers
from ..steps import named_steps
from .parse import parse_documents
from .prompts import STYLES, PromptStyle, clean_text, quotable_query
from .reject import Rejection, prompt_words
from .template import PromptTemplate, check_kinds, read_template

_QUESTION_CHARS, _ANSWER_CHARS = 1000, 200
_MIXED = 3
_FUNCTION_WORDS = frozenset(
    "a an and are as at by did do does for from had has have how in is it its of on or that the their they this to was "
    "were what when where which who whom whose why will with".split()
)
"""Words that any text may share with a query."""


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """How documents are requested and checked."""

    prompt: str = "tuned"
    """Prompt style: `"tuned"` (for a model tuned as a simulator, or a capable general one), `"few-shot"` (with worked
    examples), or `"tiny"` (the format that the tiny simulation LLM was trained on). Or your own text, or a file with
    it, which contains `{query}` and may contain `{kind}` (useful or noisy), `{question}`, `{answers}` (all gold
    answers), `{answer}` (the first one) and `{count}`. A noisy prompt then states the answers if your text does."""
    noisy_prompt: str | None = None
    """Your own text, or a file with it, for noisy documents; None: that of `prompt`."""
    system: str | None = None
    """System message; "" sends an empty one. None sends none, and then some chat templates insert their default."""
    prefill: str = ""
    """Beginning of the model's reply, for example `"Doc 1:"`, which it continues. It keeps a model that was not tuned
    from chatting."""
    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int | None = None
    """Maximum tokens per completion; None means 100 + 100 * top_k."""
    resamples: int = 3
    """Further samples after an unusable or leaking one."""
    miss_resamples: int = 1
    """Further samples after a useful set without a gold answer; if none has one, the first set is accepted."""
    max_query_chars: int = 300
    """Maximum length of a query in the prompt, in characters; longer queries are cut."""
    max_document_chars: int = 2000
    """Maximum length of a document, in characters; longer documents are cut."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: a value is invalid.
        """
        for name in ("system", "prefill"):
            if not isinstance(getattr(self, name), str | None) or (name == "prefill" and self.prefill is None):
                raise ConfigError(f"{name} must be a string, got {getattr(self, name)!r:.200}")
        if self.prompt not in STYLES:
            object.__setattr__(self, "prompt", read_template(self.prompt, "prompt"))  # the text travels with a copy
            if self.noisy_prompt is not None:
                object.__setattr__(self, "noisy_prompt", read_template(self.noisy_prompt, "noisy_prompt"))
            check_kinds(self.prompt, self.noisy_prompt)
        elif self.noisy_prompt is not None:
            raise ConfigError(f"noisy_prompt needs a text of your own as prompt, which is {self.prompt!r}")
        check_number("temperature", self.temperature, least=0)
        check_number("top_p", self.top_p, above=0, most=1)
        least = {"resamples": 0, "miss_resamples": 0, "max_query_chars": 1, "max_document_chars": 1, "max_tokens": 1}
        for name, lowest in least.items():
            if name != "max_tokens" or self.max_tokens is not None:
                check_whole_number(name, getattr(self, name), lowest)

    @property
    def style(self) -> PromptStyle | PromptTemplate:
        """The prompt style named by `prompt`, or your own text."""
        if self.prompt in STYLES:
            return STYLES[self.prompt]
        return PromptTemplate(self.prompt, self.noisy_prompt or self.prompt)


@dataclass(frozen=True, slots=True)
class DocumentSet:
    """`top_k` documents of one kind, or a failure; with counts of the work done for them."""

    documents: tuple[Document, ...]
    noisy: bool
    completions: int = 0
    """Completions that were requested."""
    attempts: int = 0
    """Calls of the model or server for these completions, retries included."""
    unusable: int = 0
    rejected: tuple[Rejection, ...] = ()
    """Why texts were not taken for documents, over all completions."""
    off_query: bool = False
    leaked: bool = False
    missed: bool = False
    accepted_miss: bool = False
    redactions: int = 0
    failure: str | None = None


def prompt_of(request: SearchRequest, noisy: bool, options: SimulationOptions, noise_kind: str = "") -> str:
    """The prompt for one set of a request; `noise_kind` as in `PromptStyle.render`."""
    answers, steps = (
        [text for answer in found if (text := clean_text(answer, _ANSWER_CHARS))]
        for found in (request.answers, request.steps)
    )
    return options.style.render(
        noisy=noisy,
        question=clean_text(request.question, _QUESTION_CHARS),
        answers=answers,
        steps=steps,
        query=quotable_query(request.query, options.max_query_chars),
        count=request.top_k,
        noise_kind=noise_kind,
    )


def sought_answers(request: SearchRequest) -> tuple[str, ...]:
    """The answers that useful documents should state: the answer of the step after the last one named in the query.

    A query names a step's answer by all of it or by its last word ("birthplace of Holm"). If no steps are known, or
    if the query names the last step, these are the gold answers of the question.
    """
    following = max((number + 1 for number, known in enumerate(named_steps(request)) if known), default=0)
    return (request.steps[following],) if following < len(request.steps) else request.answers


def make_set(
    request: SearchRequest, noisy: bool, options: SimulationOptions, *, source: str, noise_kind: str = ""
) -> Generator[Prompt, Completion, DocumentSet]:
    """Make one set: a generator that yields prompts, receives their completions, and returns the set.

    Args:
        request: the search; its noise flags are ignored.
        noisy: whether to make noisy documents.
        options: how to prompt, sample and check.
        source: `source` field of the documents.
        noise_kind: as in `PromptStyle.render`. Counterfactual documents state the answers of the request, which are
            wrong; so they are checked as useful ones are.
    """
    style, text = options.style, prompt_of(request, noisy, options, noise_kind)
    known = prompt_words(text, style, noisy=noisy, count=request.top_k, noise_kind=noise_kind)
    progress = DocumentSet((), noisy)
    noisy = noisy and noise_kind != "counterfactual"
    sought = request.answers if noisy else sought_answers(request)
    max_tokens = options.max_tokens or 100 + 100 * request.top_k
    usable: list[tuple[Document, ...]] = []
    written: set[str] = set()
    last = ""
    for sample in range(1 + max(options.resamples, options.miss_resamples)):
        seed = mix(request.seed, int(progress.noisy), sample)
        done = yield Prompt(
            text,
            seed,
            max_tokens,
            options.temperature,
            options.top_p,
            style.stop,
            options.system,
            options.prefill,
        )
        progress = replace(progress, completions=progress.completions + 1, attempts=progress.attempts + done.attempts)
        if done.failure is not None:
            if usable:
                break  # Use the samples so far; if the model is gone, the next search will fail.
            return replace(progress, failure=done.failure)
        repeated, written = done.text in written, written | {done.text}
        parsed = parse_documents(
            _reply(options.prefill, done.text),
            request.top_k,
            source=source,
            max_chars=options.max_document_chars,
            prompt=known,
        )
        progress = replace(progress, rejected=progress.rejected + parsed.rejected)
        if parsed.problem is not None:
            found = f"{len(parsed.documents)} of {request.top_k} documents"
            cut = ", cut at max_tokens" if done.truncated else ""
            last = f"{parsed.problem}, {found}{cut}: {done.text[:120]!r}"
            progress = replace(progress, unusable=progress.unusable + 1)
        else:
            documents = _mixed(parsed.documents, seed) if style.terse and not noisy else parsed.documents
            usable.append(documents)
            stated = [contains_answer(full_text(document), sought) for document in documents]
            if not noisy and (any(stated) or not request.answers):  # Without answers there is no miss.
                return _useful(progress, documents, request.query)
            if noisy and not any(stated):
                return replace(progress, documents=_clean_slots(usable, request) or documents)
            if len(usable) == 1:
                progress = replace(progress, leaked=noisy, missed=not noisy)
            if noisy and (clean := _clean_slots(usable, request)):
                return replace(progress, documents=clean)
        bound = options.resamples if noisy or not usable else options.miss_resamples
        if repeated or sample >= bound:  # A greedy server would repeat this text for ever.
            break
    if not usable:
        return replace(progress, failure=f"no usable documents in {progress.completions} completions; the last: {last}")
    if not noisy:
        return _useful(replace(progress, accepted_miss=True), usable[0], request.query)
    return _redacted(progress, usable[0], request)


def _reply(prefill: str, completion: str) -> str:
    """The whole reply: the completion after its prefill, unless the server repeats it."""
    if not completion.strip() or completion.lstrip().startswith(prefill):
        return completion
    return prefill + completion


def _useful(progress: DocumentSet, documents: tuple[Document, ...], query: str) -> DocumentSet:
    """The finished useful set; `off_query` if no document has a word of the query."""
    sought = set(words(query))
    sought = sought - _FUNCTION_WORDS or sought
    off_query = bool(sought) and sought.isdisjoint(word for d in documents for word in words(full_text(d)))
    return replace(progress, documents=documents, off_query=off_query)


def _mixed(documents: tuple[Document, ...], seed: int) -> tuple[Document, ...]:
    """Shuffle the first three documents by seed: a policy must not learn that the answer always comes first."""
    first = sorted(range(min(_MIXED, len(documents))), key=lambda slot: mix(seed, slot))
    return (*(documents[slot] for slot in first), *documents[_MIXED:])


def _clean_slots(samples: list[tuple[Document, ...]], request: SearchRequest) -> tuple[Document, ...]:
    """For each slot, the first document without an answer over all samples; empty if a slot has no such document."""
    chosen: list[Document] = []
    texts: set[str] = set()
    for slot in zip(*samples, strict=True):
        clean = (d for d in slot if d.text not in texts and not contains_answer(full_text(d), request.answers))
        document = next(clean, None)
        if document is None:
            return ()
        chosen.append(document)
        texts.add(document.text)
    return tuple(chosen)


def _redacted(progress: DocumentSet, documents: tuple[Document, ...], request: SearchRequest) -> DocumentSet:
    answers = request.answers
    clean = [remove_answers(d, answers) if contains_answer(full_text(d), answers) else d for d in documents]
    redacted = tuple(document for document in clean if document is not None)
    if len(redacted) < len(documents):
        return replace(progress, failure="a noisy document consists of a gold answer, in every sample")
    count = sum(before is not after for before, after in zip(documents, redacted, strict=True))
    return replace(progress, documents=redacted, redactions=count)
