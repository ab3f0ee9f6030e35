"""The records passed between the parts of the package: questions, documents, searches, steps, scores.

Records are read-only. Four of them (`SearchRequest`, `SearchResult`, `Step`, `Scores`) are made at every step and are
read-only by convention alone: the constructor of a frozen dataclass sets each field through `object.__setattr__`, which
costs several times as much. This file imports nothing from the rest of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

ActionKind = Literal["search", "answer", "invalid", "browse"]
"""`"browse"`: the policy reads again what earlier searches have shown (`deepresearcher`)."""

# Public signatures name these instead of `Any`, which switches the type checker off where it stands.
Json: TypeAlias = Any
"""A value read from JSON. `Any`, because whoever uses a part of it checks its type first."""
JsonObject: TypeAlias = Mapping[str, Any]
"""An object read from JSON, or a record that will be written as JSON. `Any`: its values are `Json`."""
Options: TypeAlias = Mapping[str, Any]
"""Keyword arguments as a mapping. `Any`: the callee's own signature gives each of them a type, and checks it."""
Info: TypeAlias = dict[str, Any]
"""The info of `reset` and `step`. `Any` is Gymnasium's own type; docs/environment.md lists the keys."""


class StopReason(StrEnum):
    """Why an episode ended. `ANSWER` and `NO_ACTION` terminate it; every other reason truncates it."""

    ANSWER = "answer"
    """The policy gave an answer."""
    NO_ACTION = "no_action"
    """The protocol has no invalid-action notice, so a turn without an action ends the episode (r1-searcher,
    deepresearcher, hermes)."""
    MAX_TURNS = "max_turns"
    """The policy gave no answer in its last turn."""
    TOO_LONG = "too_long"
    """The policy's text of one turn was longer than the environment accepts."""
    ENGINE_ERROR = "engine_error"
    """The search engine failed after its bounded retries; `error` holds the reason."""
    AGENT_ERROR = "agent_error"
    """The agent's own code failed or took too long (set by an evaluation, never by the environment); `error` holds the
    reason."""
    CONTEXT_LIMIT = "context_limit"
    """The token budget of the policy is used up (set by a rollout, never by the environment)."""

    @property
    def terminates(self) -> bool:
        """True if this reason sets Gymnasium's `terminated`, False if it sets `truncated`."""
        return self in _TERMINATING

    @property
    def failed(self) -> bool:
        """True if the engine or the agent's code failed, so that the episode's scores say nothing."""
        return self in _FAILURES


_TERMINATING = (StopReason.ANSWER, StopReason.NO_ACTION)
_FAILURES = (StopReason.ENGINE_ERROR, StopReason.AGENT_ERROR)


@dataclass(frozen=True, slots=True, init=False)
class Document:
    """A passage from a corpus, from a question's own paragraphs, or from a search engine."""

    title: str
    text: str
    source: str = ""
    """Where it comes from: a passage id, a URL, or the simulator's name."""
    score: float | None = None
    """The engine's relevance score; None if the engine gives none."""

    # Engines make five documents per search. The constructor of a frozen dataclass would take twice as long.
    def __init__(self, title: str, text: str, source: str = "", score: float | None = None) -> None:
        _set_title(self, title)
        _set_text(self, text)
        _set_source(self, source)
        _set_score(self, score)


_set_title, _set_text, _set_source, _set_score = (
    vars(Document)[name].__set__ for name in ("title", "text", "source", "score")
)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph that the dataset supplies with a question (HotpotQA, 2Wiki, MuSiQue)."""

    title: str
    text: str
    supporting: bool
    """True if the paragraph is needed to answer the question, False if it is a distractor."""


@dataclass(frozen=True, slots=True, init=False)
class Question:
    """One question with all accepted answers. The first answer is the canonical one."""

    id: str
    text: str
    answers: tuple[str, ...]
    dataset: str = ""
    split: str = ""
    paragraphs: tuple[Paragraph, ...] | None = None
    metadata: JsonObject | None = None
    prompt: tuple[JsonObject, ...] | None = None
    """The messages of the row's own prompt, each with `role` and `content`; None: the row has none."""

    # Files hold up to millions of questions; see `Document`.
    def __init__(
        self,
        id: str,
        text: str,
        answers: tuple[str, ...],
        dataset: str = "",
        split: str = "",
        paragraphs: tuple[Paragraph, ...] | None = None,
        metadata: JsonObject | None = None,
        prompt: tuple[JsonObject, ...] | None = None,
    ) -> None:
        _question_id(self, id)
        _question_text(self, text)
        _question_answers(self, answers)
        _question_dataset(self, dataset)
        _question_split(self, split)
        _question_paragraphs(self, paragraphs)
        _question_metadata(self, metadata)
        _question_prompt(self, prompt)

    @property
    def steps(self) -> tuple[str, ...]:
        """Answers of the intermediate steps, in order, without the final one; empty if the dataset does not have them.

        They are `metadata["chain"]` (a list or tuple with the answers of all steps) without its last entry.
        """
        chain = self.metadata.get("chain") if self.metadata else None
        return tuple(map(str, chain[:-1])) if isinstance(chain, (tuple, list)) else ()

    @property
    def supporting(self) -> tuple[str, ...]:
        """Titles of the paragraphs that are needed to answer, each once; empty if the dataset does not name them.

        They are those of the supporting `paragraphs`; else `metadata["supporting"]`, a list or tuple of titles; else,
        with a `chain` of answers (see `steps`), the subject of each step: `metadata["subject"]`, then `steps`.
        """
        metadata = self.metadata or {}
        named, subject = metadata.get("supporting"), metadata.get("subject")
        titles: tuple[object, ...] = ()
        if self.paragraphs:
            titles = tuple(paragraph.title for paragraph in self.paragraphs if paragraph.supporting)
        elif isinstance(named, (tuple, list)):
            titles = tuple(named)
        elif subject and isinstance(metadata.get("chain"), (tuple, list)):
            titles = (subject, *self.steps)
        return tuple(dict.fromkeys(str(title) for title in titles if title))


(
    _question_id,
    _question_text,
    _question_answers,
    _question_dataset,
    _question_split,
    _question_paragraphs,
    _question_metadata,
    _question_prompt,
) = (vars(Question)[name].__set__ for name in Question.__dataclass_fields__)


@dataclass(slots=True, unsafe_hash=True)  # see the note at the top
class SearchRequest:
    """One search: the policy's query, the question it belongs to, and the noise drawn for it."""

    query: str
    question: str
    answers: tuple[str, ...]
    noisy: bool | tuple[bool, ...]
    """One flag for the whole result, or one flag per document (`noise_unit="document"`, length `top_k`)."""
    top_k: int
    seed: int
    """64-bit seed of this search. An engine derives all its random choices from it."""
    paragraphs: tuple[Paragraph, ...] | None = None
    """The question's own paragraphs, if it has any."""
    steps: tuple[str, ...] = ()
    """Answers of the intermediate steps (`Question.steps`), which searches before the last one should find."""
    noise_kind: str = "distractor"
    """What the search returns where it is noisy (`game.noise_kinds`)."""
    episode_seed: int = 0
    """64-bit seed of what all searches of an episode share, such as the wrong answer of counterfactual documents."""
    guarded: tuple[str, ...] = ()
    """Further answers that noisy documents must not state: if the question of a search is unknown, those of the
    questions closest to its query (`zerosearch serve`). Unlike `answers` they say nothing about what is asked."""

    @property
    def forbidden(self) -> tuple[str, ...]:
        """All answers that noisy documents must not state."""
        return self.answers + self.guarded if self.guarded else self.answers

    @property
    def noise_mask(self) -> tuple[bool, ...]:
        """One flag per document, shape `(top_k,)`."""
        return (self.noisy,) * self.top_k if isinstance(self.noisy, bool) else self.noisy


@dataclass(slots=True, unsafe_hash=True)  # see the note at the top
class SearchResult:
    """The result of one search request. `failure` is None exactly when the search succeeded."""

    documents: tuple[Document, ...]
    engine: str = ""
    latency_s: float = 0.0
    attempts: int = 1
    failure: str | None = None
    message: str | None = None
    """What the policy is told instead of documents, as if the tool had failed (noise of the kind `outage`). Unlike
    `failure` it does not end the episode."""
    wrong_answers: tuple[str, ...] = ()
    """Wrong answers to the question that noisy documents were made to state."""


@dataclass(slots=True, unsafe_hash=True)  # see the note at the top
class Scores:
    """The prediction of a finished episode and its scores, which are NaN if the question has no gold answers."""

    prediction: str | None
    answers: tuple[str, ...]
    em: float
    f1: float
    subem: float
    reward: float
    searches: int
    em_unicode: float = 0.0
    f1_unicode: float = 0.0
    extra: tuple[tuple[str, float | None], ...] = ()
    """Name and value of each additional score (`Rules.scores`); None if it has no value (`UnjudgedError`)."""
    misled: float = 0.0
    """1.0 if the prediction is a wrong answer that noisy documents were made to state, else 0.0."""
    abstained: float = 0.0
    """1.0 if the whole prediction is one of `Rules.abstentions` and not right, else 0.0."""
    hallucinated: float = 0.0
    """1.0 if there is a prediction that is neither right nor an abstention, else 0.0. `em - hallucinated` is the
    truthfulness of TruthRL (arXiv 2509.25760)."""
    counterfactual: str | None = None
    """The wrong answer that noisy documents of this episode were made to state; None if there was none."""
    noise_kind: tuple[str | None, ...] = ()
    """The kind of noise of each search; None for those that were not noisy."""


@dataclass(frozen=True, slots=True)
class Searched:
    """One search of a turn that made several, or of an episode with other noise than the default kind."""

    query: str
    noisy: bool | tuple[bool, ...]
    documents: tuple[Document, ...] = ()
    kind: str | None = None
    """The kind of noise; None if the search was not noisy."""
    message: str | None = None
    """See `SearchResult.message`."""
    wrong_answers: tuple[str, ...] = ()
    """See `SearchResult.wrong_answers`."""


@dataclass(slots=True, unsafe_hash=True)  # see the note at the top
class Step:
    """The environment's report on one turn of an episode."""

    observation: str
    """The new text for the policy; empty at the end."""
    action: ActionKind
    turn: int
    """Number of turns taken so far, including this one (1-based)."""
    noise_level: float
    query: str | None = None
    """The query; those of several searches in one turn are joined by "; "."""
    documents: tuple[Document, ...] = ()
    noisy: bool | tuple[bool, ...] | None = None
    """Whether a search of this turn was noisy; one flag per document with `noise_unit="document"`. None if the turn was
    not a search."""
    find_answer: Callable[[Sequence[Document]], bool] | None = field(default=None, compare=False, repr=False)
    """Looks for a gold answer in documents; None if the turn was not a search, or the question has no gold answers. See
    `answer_in_documents`."""
    stop_reason: StopReason | None = None
    scores: Scores | None = None
    """Set exactly when `stop_reason` is set."""
    error: str | None = None
    """The error message, if the episode ended because the engine or the agent's code failed."""
    searches: tuple[Searched, ...] | None = None
    """The searches of this turn, if `query`, `documents` and `noisy` do not describe them: there are several, or the
    noise is not of the default kind. Read them with `queries`, `groups`, `noise_flags` and `noise_kinds`."""
    messages: tuple[tuple[Literal["tool", "user"], str], ...] = ()
    """The observation as chat messages, (role, content) each, if the protocol's `observation_role` is "tool": one
    "tool" message per call, without the protocol's own tags, and notices as "user" messages. Otherwise empty."""

    @property
    def answer_in_documents(self) -> bool | None:
        """Whether this turn's documents contain a gold answer; None if the turn was not a search, or there are none.

        Computed at each access, because it takes as long as the rest of the turn and few callers need it.
        """
        return None if self.find_answer is None else self.find_answer(self.documents)

    # Most turns have one search: what is stored for it once is not stored again as tuples of length one.
    @property
    def queries(self) -> tuple[str, ...]:
        """The query of each search of this turn; empty if the turn was not a search."""
        if self.searches is not None:
            return tuple([search.query for search in self.searches])
        return () if self.query is None or self.noisy is None else (self.query,)

    @property
    def groups(self) -> tuple[tuple[Document, ...], ...]:
        """The documents of each search of this turn; `documents` has all of them in this order. Empty if one failed."""
        if self.scores is not None or self.noisy is None:
            return ()
        return (self.documents,) if self.searches is None else tuple([search.documents for search in self.searches])

    @property
    def noise_flags(self) -> tuple[bool | tuple[bool, ...], ...]:
        """The noise of each search of this turn; see `SearchRequest.noisy`."""
        if self.searches is not None:
            return tuple([search.noisy for search in self.searches])
        return () if self.noisy is None else (self.noisy,)

    @property
    def noise_kinds(self) -> tuple[str | None, ...]:
        """The kind of noise of each search of this turn; None for those that were not noisy."""
        if self.searches is not None:
            return tuple([search.kind for search in self.searches])
        if self.noisy is None:
            return ()
        noisy = self.noisy if isinstance(self.noisy, bool) else any(self.noisy)
        return ("distractor" if noisy else None,)

    @property
    def results(self) -> tuple[SearchResult, ...]:
        """Results with which `Episode.observe` makes this step again."""
        if self.noisy is None:
            return ()
        if self.searches is None:
            return (SearchResult(self.documents, failure=self.error),)
        return tuple(
            [
                SearchResult(s.documents, failure=self.error, message=s.message, wrong_answers=s.wrong_answers)
                for s in self.searches
            ]
        )

    @property
    def done(self) -> bool:
        """True when the episode is over."""
        return self.stop_reason is not None

    @property
    def reward(self) -> float:
        """The reward of this turn: 0.0 before the end, the episode's reward at the end."""
        return 0.0 if self.scores is None else self.scores.reward


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn in a transcript: what the policy wrote and the environment's reply."""

    action_text: str
    step: Step
    end: int | None = None
    """Number of characters up to the end of the element that decided the action; None: the whole text."""

    @property
    def context_text(self) -> str:
        """The part that stays in the context: without what follows the element that decided."""
        return self.action_text[: self.end]


@dataclass(frozen=True)
class Dataset:
    """Questions and, if the dataset has any, the passages to search."""

    name: str
    split: str
    questions: Sequence[Question]
    passages: Sequence[Document] | None = None
    skipped_rows: int = 0
    """Number of rows left out by `on_bad_row="skip"`."""
    metadata: JsonObject = field(default_factory=dict)
    # Any: each owner of a key knows the type of its value
    derived: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was computed from this dataset once and is shared in this process, such as its search indexes."""

    def __repr__(self) -> str:
        """Counts instead of the records themselves, which may be millions of characters long."""
        passages = "none" if self.passages is None else len(self.passages)
        skipped = f", skipped_rows={self.skipped_rows}" if self.skipped_rows else ""
        return (
            f"Dataset({self.name!r}, {self.split!r}, questions: {len(self.questions)}, passages: {passages}{skipped})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be computed again."""
        return self.__dict__ | {"derived": {}}


def full_text(document: Document | Paragraph) -> str:
    """Title and text in one string, the form in which documents are indexed and searched for answers."""
    return f"{document.title} {document.text}" if document.title else document.text
