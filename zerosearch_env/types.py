"""The records that travel through the package: questions, documents, searches, steps, scores.

Every record is frozen; every stage of the package takes one of them and returns another. This file imports
nothing from the rest of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

ActionKind = Literal["search", "answer", "invalid"]


class StopReason(StrEnum):
    """Why an episode ended. `ANSWER` and `NO_ACTION` terminate it; every other reason truncates it."""

    ANSWER = "answer"
    """The policy gave an answer."""
    NO_ACTION = "no_action"
    """The protocol has no invalid-action notice, so a turn without an action ends the episode (r1-searcher,
    deepresearcher, hermes)."""
    MAX_TURNS = "max_turns"
    """The last turn passed without an answer."""
    TOO_LONG = "too_long"
    """The policy's text of one turn was longer than the environment accepts."""
    ENGINE_ERROR = "engine_error"
    """The search engine failed after its bounded retries; `error` says how."""
    CONTEXT_LIMIT = "context_limit"
    """The token budget of the policy ran out (set by a rollout, never by the environment)."""

    @property
    def terminates(self) -> bool:
        """True when Gymnasium's `terminated` is set, False when `truncated` is."""
        return self in _TERMINATING


_TERMINATING = (StopReason.ANSWER, StopReason.NO_ACTION)


@dataclass(frozen=True, slots=True)
class Document:
    """A passage: of a corpus, of a question's own paragraphs, or returned by a search engine."""

    title: str
    text: str
    source: str = ""
    """Where it comes from: a passage id, an address, or the simulator's name."""
    score: float | None = None
    """The engine's own relevance score; None where the engine has none."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph that a question brings along (HotpotQA, 2Wiki, MuSiQue)."""

    title: str
    text: str
    supporting: bool
    """True when the paragraph is needed to answer the question, False when it is a distractor."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with every accepted answer. The first answer is the canonical one."""

    id: str
    text: str
    answers: tuple[str, ...]
    dataset: str = ""
    split: str = ""
    paragraphs: tuple[Paragraph, ...] | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        """Answers of the steps before the last one, first step first, where the dataset knows them.

        They come from `metadata["chain"]`, the answers of all steps (of the world, a tuple); without it there are none.
        """
        chain = self.metadata.get("chain") if self.metadata else None
        return tuple(map(str, chain[:-1])) if isinstance(chain, (tuple, list)) else ()


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search: the policy's query, the question it belongs to, and the noise drawn for it."""

    query: str
    question: str
    answers: tuple[str, ...]
    noisy: bool | tuple[bool, ...]
    """One flag for the whole result, or one flag a document (`noise_unit="document"`, length `top_k`)."""
    top_k: int
    seed: int
    """64-bit seed of this search; an engine that makes choices derives them from it alone."""
    paragraphs: tuple[Paragraph, ...] | None = None
    """The question's own paragraphs, where it has some."""
    steps: tuple[str, ...] = ()
    """Answers of the steps before the last one (`Question.steps`): what a search on the way is to find."""

    @property
    def noise_mask(self) -> tuple[bool, ...]:
        """One flag a document, shape `(top_k,)`."""
        return (self.noisy,) * self.top_k if isinstance(self.noisy, bool) else self.noisy


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What an engine returned for one request. `failure` is None exactly when the search succeeded."""

    documents: tuple[Document, ...]
    engine: str = ""
    latency_s: float = 0.0
    attempts: int = 1
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """The end of an episode: what was predicted and what it is worth."""

    prediction: str | None
    answers: tuple[str, ...]
    em: float
    f1: float
    subem: float
    reward: float
    searches: int


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of an episode as the environment reports it."""

    observation: str
    """The text that is new to the policy; empty at the end."""
    action: ActionKind
    turn: int
    """Turns taken so far, this one included (1-based)."""
    noise_level: float
    query: str | None = None
    documents: tuple[Document, ...] = ()
    noisy: bool | tuple[bool, ...] | None = None
    """The noise of this turn's search; None when the turn was no search."""
    answer_in_documents: bool | None = None
    """Whether a gold answer stands in this turn's documents; None when the turn was no search."""
    stop_reason: StopReason | None = None
    scores: Scores | None = None
    """Set exactly when `stop_reason` is."""
    error: str | None = None
    """The engine's failure, when the episode ended by one."""

    @property
    def done(self) -> bool:
        """True when the episode is over."""
        return self.stop_reason is not None

    @property
    def reward(self) -> float:
        """The reward of this turn: the scored reward at the end, 0.0 before."""
        return 0.0 if self.scores is None else self.scores.reward


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as it is kept in a transcript: what the policy wrote and what came back."""

    action_text: str
    step: Step


@dataclass(frozen=True)
class Dataset:
    """Questions and, where the dataset has them, the passages to search in."""

    name: str
    split: str
    questions: Sequence[Question]
    passages: Sequence[Document] | None = None
    skipped_rows: int = 0
    """Rows left out by `on_bad_row="skip"`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def full_text(document: Document | Paragraph) -> str:
    """Title and text, as they are indexed and searched for answers."""
    return f"{document.title} {document.text}" if document.title else document.text
