"""How each kind of noise makes a result from what an engine finds.

A maker is a generator that does no I/O: it yields lists of requests for the engine, receives their results, and returns
the result of the search. So a batch of searches needs as many calls of the engine as its longest maker has rounds:
usually one.

    kind             asks for                         and then
    irrelevant       useful documents, another        drops those with a gold answer
                     question
    counterfactual   useful documents                 replaces the gold answers
    mixed            useful documents                 shows them next to their counterfactual copies
    empty            nothing
    garbled          useful documents                 adds faults of spelling and character recognition
    markup           useful documents                 adds the rest of a web page
    incomplete       useful documents                 cuts the sentence with the answer
    redundant        useful documents                 adds repetitions and filler
    outage           nothing
    injection        noisy documents                  adds instructions for the agent

With one noise flag per document, this happens to the noisy slots, and the others hold the useful documents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from ...bounded_cache import BoundedCache
from ...game.answers import contains_answer
from ...game.noise_kinds import split_kind
from ...randomness import mix, splits, uniform, uniform2
from ...types import Document, Question, SearchRequest, SearchResult, full_text
from ..steps import named_steps
from .answer_types import answer_form, answer_key
from .attacks import injected
from .claims import with_claim
from .failures import MESSAGES, PAGE_MESSAGES, failure_message
from .garbling import garbled
from .markup import as_page
from .padding import padded
from .pools import WrongAnswer, WrongAnswers
from .replacing import Replacer, replace_answers
from .shortening import first_half, without_answer

Maker = Generator[list[SearchRequest], list[SearchResult], SearchResult]
Documents = Sequence[Document | None]

NEEDS_WRONG_ANSWERS = frozenset(("counterfactual", "mixed", "injection"))
NEEDS_ANSWERS = NEEDS_WRONG_ANSWERS | {"incomplete"}
"""Kinds that a request without gold answers cannot have; it gets distractors."""
KEEPS_ANSWERS = frozenset(("garbled", "markup", "redundant"))
"""Kinds whose documents are useful ones that are hard to read: they may state a gold answer."""
WITHOUT_ANSWERS = frozenset(("irrelevant", "counterfactual", "incomplete", "injection", "empty", "outage"))
"""Kinds whose noisy documents state no gold answer."""
ENGINE = "noise"
"""Name of the engine in results for which no engine was asked."""

_TRIES = 16
_CACHED = 1024


@dataclass(frozen=True)
class Sources:
    """What the makers draw from."""

    questions: Sequence[Question]
    """The questions of the dataset."""
    written: Collection[str] = ()
    """Kinds whose documents the engine writes itself."""
    replacers: BoundedCache[tuple[WrongAnswer, ...], Replacer] = field(default_factory=lambda: BoundedCache(_CACHED))

    @cached_property
    def wrong_answers(self) -> WrongAnswers:
        """The wrong answers of the dataset; reading all questions takes about 0.1 ms each."""
        return WrongAnswers(self.questions)

    def wrong_answer(self, request: SearchRequest) -> WrongAnswer:
        """The wrong answer of the request's episode."""
        return self.wrong_answers.of(request.question, request.answers, request.episode_seed)

    def wrong_steps(self, request: SearchRequest) -> list[WrongAnswer]:
        """The wrong answers of the steps that the query does not name, without yes and no."""
        return [
            self.wrong_answers.of(request.question, (step,), request.episode_seed, step=number)
            for number, (step, named) in enumerate(zip(request.steps, named_steps(request), strict=True))
            if not named and answer_key(step) and answer_form(step) != "yes/no"
        ]

    def replacer(self, wrongs: tuple[WrongAnswer, ...]) -> Replacer:
        """What replaces the right answers by these wrong ones."""
        replacer = self.replacers.get(wrongs)
        if replacer is None:
            replacer = Replacer(pair for wrong in wrongs for pair in wrong.pairs)
            self.replacers.put(wrongs, replacer)
        return replacer


def make_result(request: SearchRequest, sources: Sources) -> Maker:
    """Make the result of a noisy request of any kind but `distractor`.

    Args:
        request: the request; its `noise_kind` may carry a number, as in `"redundant:8"`.
        sources: what is drawn from.
    """
    kind, number = _split(request.noise_kind)
    if not isinstance(request.noisy, bool) and all(request.noisy):
        request = replace(request, noisy=True)
    if kind in NEEDS_ANSWERS and not any(map(str.strip, request.answers)):
        return _pass_on(request)
    made = _MAKERS[kind](request, number, sources)
    return _without_addresses(request, made) if kind in WITHOUT_ANSWERS else made


def _without_addresses(request: SearchRequest, maker: Maker) -> Maker:
    """Cut addresses that name a gold answer (`.../wiki/Michael_Curtiz`) after the host: some protocols show them."""
    result = yield from maker
    mask = request.noise_mask if len(result.documents) == request.top_k else (True,) * len(result.documents)
    documents = tuple(
        replace(document, source="/".join(document.source.split("/")[:3]))
        if noise and "://" in document.source and contains_answer(document.source, request.answers)
        else document
        for document, noise in zip(result.documents, mask, strict=True)
    )
    return result if documents == result.documents else replace(result, documents=documents)


@lru_cache(maxsize=256)
def _split(kind: str) -> tuple[str, float | None]:
    return split_kind(kind)


def _plain(request: SearchRequest, noisy: bool | tuple[bool, ...]) -> SearchRequest:
    return SearchRequest(  # `replace` takes several times as long
        request.query,
        request.question,
        request.answers,
        noisy,
        request.top_k,
        request.seed,
        request.paragraphs,
        request.steps,
        episode_seed=request.episode_seed,
        guarded=request.guarded,
    )


def _pass_on(request: SearchRequest) -> Maker:
    (result,) = yield [_plain(request, request.noisy)]
    return result


def _from_useful(
    request: SearchRequest, change: Callable[[Document, int], Document | None], wrong: Collection[str] = ()
) -> Maker:
    """Change the useful documents in the noisy slots: `change(document, seed of the slot)`."""
    (result,) = yield [_plain(request, False)]
    if result.failure is not None:
        return result
    return (yield from _finish(request, result, _changed(request, result.documents, change), wrong))


def _changed(
    request: SearchRequest, documents: Sequence[Document], change: Callable[[Document, int], Document | None]
) -> Documents:
    slots = zip(documents, request.noise_mask, splits(request.seed, 1000), strict=False)
    return [change(document, seed) if noise else document for document, noise, seed in slots]


def _finish(
    request: SearchRequest,
    result: SearchResult,
    documents: Documents,
    wrong: Collection[str] = (),
    *,
    written: Sequence[Document] = (),
) -> Maker:
    """The result with these documents. Those that are missing (None) are replaced by distractors.

    Args:
        request: the search.
        result: what the engine found.
        documents: the documents to show.
        wrong: the wrong answers that changed documents may state.
        written: documents that the engine wrote for the kind, which may state them too.
    """
    if any(document is None for document in documents):
        (spare,) = yield [_plain(request, True)]
        shown = {document.text for document in documents if document is not None}
        others = iter([document for document in spare.documents if document.text not in shown])
        documents = [next(others, None) if document is None else document for document in documents]
        if documents and all(document is None for document in documents):
            failure = spare.failure or f"no document for {request.query!r} is free of the gold answers"
            return replace(result, documents=(), failure=failure)
    stated: tuple[str, ...] = ()
    if wrong:
        shown_before = set(map(id, result.documents)).difference(map(id, written))
        made = [d for d in documents if d is not None and id(d) not in shown_before]
        stated = tuple(text for text in wrong if any(_states(document, text) for document in made))
    return replace(result, documents=tuple([d for d in documents if d is not None]), wrong_answers=stated)


def _states(document: Document, wrong: str) -> bool:
    """Whether a changed document states a wrong answer; it usually does so letter by letter."""
    return wrong in document.text or wrong in document.title or contains_answer(full_text(document), (wrong,))


def _irrelevant(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    other = _other_question(request, sources.questions)
    if other is None:
        return (yield from _pass_on(request))
    about_other = replace(
        _plain(request, False),
        query=other.text,
        question=other.text,
        answers=other.answers,
        paragraphs=other.paragraphs,
        steps=other.steps,
    )
    whole = request.noisy is True
    results = yield [about_other] if whole else [about_other, _plain(request, False)]
    failed = next((result for result in results if result.failure is not None), None)
    if failed is not None:
        return failed
    forbidden = request.forbidden
    found: Documents = [
        None if contains_answer(full_text(document), forbidden) else document for document in results[0].documents
    ]
    if any(document is None for document in found):
        # Noisy documents for the other question are kept free of the answers that the request names: those of this one.
        (spare,) = yield [replace(about_other, noisy=True, answers=request.answers, steps=())]
        others = iter([d for d in spare.documents if not contains_answer(full_text(d), forbidden)])
        found = [next(others, None) if document is None else document for document in found]
    left = [document for document in found if document is not None]
    if not left:
        return (yield from _pass_on(request))
    if whole:
        return replace(results[0], documents=tuple(left))
    return replace(results[1], documents=_in_slots(request, results[1].documents, left))


def _other_question(request: SearchRequest, questions: Sequence[Question]) -> Question | None:
    """Another question, by seed; if possible one that has other answers."""
    golds = set(map(answer_key, request.answers))
    last = None
    for attempt in range(_TRIES if questions else 0):
        question = questions[mix(request.seed, 140, attempt) % len(questions)]
        if question.text != request.question:
            last = question
            if golds.isdisjoint(map(answer_key, question.answers)):
                return question
    return last or next((question for question in questions if question.text != request.question), None)


def _in_slots(request: SearchRequest, useful: Sequence[Document], noisy: Sequence[Document]) -> tuple[Document, ...]:
    """The j-th noisy document in slot j if the slot is noisy, else the j-th useful one, without repetitions."""
    shown: dict[str, Document] = {}
    for slot, noise in enumerate(request.noise_mask):
        documents = noisy if noise else useful
        if slot < len(documents):
            shown.setdefault(documents[slot].text, documents[slot])
    return tuple(shown.values())


def _counterfactual(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    wrong = sources.wrong_answer(request)
    if _is_yes_no(request):
        return (yield from _claimed(request, wrong.text))
    steps = sources.wrong_steps(request)
    change = _falsify(request, wrong, steps, sources)
    stated = _forms_of(wrong)
    if "counterfactual" not in sources.written:
        return (yield from _from_useful(request, change, stated))
    about_wrong = replace(
        _plain(request, True),
        noise_kind="counterfactual",
        answers=(wrong.text,),
        steps=tuple(step.text for step in steps),
    )
    return (yield from _from_written(request, about_wrong, change, stated))


def _falsify(
    request: SearchRequest, wrong: WrongAnswer, steps: Sequence[WrongAnswer], sources: Sources
) -> Callable[[Document, int], Document | None]:
    replacer = sources.replacer((wrong, *steps))
    golds = request.answers
    hidden = (*golds, *(form for step in steps for form, _ in step.pairs))

    def change(document: Document, seed: int) -> Document | None:
        if not contains_answer(full_text(document), hidden):
            return document
        return replace_answers(document, replacer, golds, wrong.text)

    return change


def _is_yes_no(request: SearchRequest) -> bool:
    return any(answer_form(answer) == "yes/no" for answer in request.answers)


def _from_written(
    request: SearchRequest,
    written: SearchRequest,
    change: Callable[[Document, int], Document | None],
    wrong: Collection[str] = (),
) -> Maker:
    """Documents that the engine writes for a kind, in the noisy slots; `change` corrects what it did not follow."""
    whole = request.noisy is True
    results = yield [written] if whole else [written, _plain(request, False)]
    failed = next((result for result in results if result.failure is not None), None)
    if failed is not None:
        return failed
    made = results[0].documents
    documents = made if whole else _in_slots(request, results[1].documents, made)
    changed = _changed(request, documents, change)
    return (yield from _finish(request, results[-1], changed, wrong, written=made))


def _claimed(request: SearchRequest, wrong: str) -> Maker:
    """Distractors that begin with the wrong one of yes and no."""

    def change(document: Document, seed: int) -> Document | None:
        return with_claim(document, request.question, request.answers, wrong, seed)

    return (yield from _from_noisy(request, change, wrong))


def _from_noisy(request: SearchRequest, change: Callable[[Document, int], Document | None], wrong: str) -> Maker:
    """Change the noisy documents; one that cannot be changed stays."""
    (result,) = yield [_plain(request, request.noisy)]
    if result.failure is not None:
        return result
    mask = request.noise_mask
    if len(result.documents) < len(mask) and not all(mask):  # slots are left out, so the others are not in place
        (useful,) = yield [_plain(request, False)]
        mask = tuple(document not in useful.documents for document in result.documents)
    documents: list[Document] = []
    stated = False
    for document, noise, seed in zip(result.documents, mask, splits(request.seed, 1000), strict=False):
        changed = change(document, seed) if noise else None
        stated = stated or changed is not None
        documents.append(changed or document)
    return replace(result, documents=tuple(documents), wrong_answers=(wrong,) if stated else ())


def _mixed(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    wrong = sources.wrong_answer(request)
    if _is_yes_no(request):
        half = tuple(uniform(request.seed, 150, slot) < 0.5 for slot in range(request.top_k))
        both = tuple(noise and chosen for noise, chosen in zip(request.noise_mask, half, strict=True))
        return (yield from _claimed(replace(request, noisy=both if any(both) else request.noisy), wrong.text))
    change = _falsify(request, wrong, sources.wrong_steps(request), sources)
    stated = _forms_of(wrong)
    if request.noisy is not True:  # each slot keeps its document, true or false
        return (yield from _from_useful(request, lambda d, seed: change(d, seed) if seed % 2 else d, stated))
    (result,) = yield [_plain(request, False)]
    if result.failure is not None:
        return result
    pairs: list[tuple[Document, ...]] = []
    for slot, true in enumerate(result.documents):
        false = change(true, 0)
        pair = (true,) if false is None or false == true else (true, false)
        pairs.append(pair if mix(request.seed, 151, slot) % 2 else pair[::-1])
    # The documents with a counterfactual copy come first: they are the ones that contradict each other.
    pairs.sort(key=len, reverse=True)
    chosen = [document for pair in pairs for document in pair][: len(result.documents)]
    order = sorted(range(len(chosen)), key=lambda place: mix(request.seed, 152, place))
    return (yield from _finish(request, result, [chosen[place] for place in order], stated))


def _forms_of(wrong: WrongAnswer) -> Collection[str]:
    """The wrong answer and its other forms, such as a year alone."""
    return dict.fromkeys((wrong.text, *(text for _, text in wrong.pairs)))


def _incomplete(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    golds = request.answers
    steps = zip(request.steps, named_steps(request), strict=True)
    hidden = (*golds, *(step for step, named in steps if not named))
    yes_no = _is_yes_no(request)

    def change(document: Document, seed: int) -> Document | None:
        return without_answer(first_half(document) if yes_no else document, hidden, golds, seed)

    if "incomplete" not in sources.written:
        return (yield from _from_useful(request, change))
    written = replace(_plain(request, True), noise_kind="incomplete")
    return (yield from _from_written(request, written, change))


def _garbled(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    assert number is not None  # `split_kind` has a default

    def change(document: Document, seed: int) -> Document | None:
        return garbled(document, request.answers, seed, unreadable=uniform(seed, 0) < number)

    return _from_useful(request, change)


def _markup(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    return _from_useful(request, lambda document, seed: as_page(document, request.answers, seed))


def _redundant(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    assert number is not None  # `split_kind` has a default
    return _from_useful(request, lambda document, seed: padded(document, request.answers, number, seed))


def _empty(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    if request.noisy is True:
        return SearchResult((), ENGINE)
    (result,) = yield [_plain(request, False)]
    slots = zip(result.documents, request.noise_mask, strict=False)
    return replace(result, documents=tuple(document for document, noise in slots if not noise))


def _outage(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    if request.noisy is True:
        return SearchResult((), ENGINE, message=failure_message(MESSAGES, request.answers, request.seed))

    def change(document: Document, seed: int) -> Document | None:
        title = "" if contains_answer(document.title, request.answers) else document.title
        return Document(title, failure_message(PAGE_MESSAGES, request.answers, seed), document.source, document.score)

    return (yield from _from_useful(request, change))


def _injection(request: SearchRequest, number: float | None, sources: Sources) -> Maker:
    wrong = sources.wrong_answer(request).text
    sure = mix(request.seed, 160) % request.top_k
    whole = request.noisy is True
    chosen = {
        seed
        for slot, seed in zip(range(request.top_k), splits(request.seed, 1000), strict=False)
        if not whole or slot == sure or uniform2(request.seed, 161, slot) < 0.5
    }

    def change(document: Document, seed: int) -> Document | None:
        return injected(document, request, wrong, seed) if seed in chosen else None

    return (yield from _from_noisy(request, change, wrong))


_MAKERS: Mapping[str, Callable[[SearchRequest, float | None, Sources], Maker]] = {
    "irrelevant": _irrelevant,
    "counterfactual": _counterfactual,
    "mixed": _mixed,
    "empty": _empty,
    "garbled": _garbled,
    "markup": _markup,
    "incomplete": _incomplete,
    "redundant": _redundant,
    "outage": _outage,
    "injection": _injection,
}
