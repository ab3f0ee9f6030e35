"""One finished episode, reduced to the figures that tables and comparisons need.

transcript record -> episode_result -> EpisodeResult -> episode_row -> results.json
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from zerosearch_env.errors import DataError
from zerosearch_env.records.transcripts import noisy_flags
from zerosearch_env.types import JsonObject, StopReason

from .statistics import Kind

JUDGE = "judge"
"""Name of the judge's verdict among the additional scores."""
METRICS = ("em", "f1", "subem", "em_unicode", "f1_unicode")
OUTCOMES = ("misled", "abstained", "hallucinated")
"""What an episode without a right answer came to; see `Scores`. Episodes of earlier versions have no value."""
METRIC_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("em", "subem", "em_unicode"), "binary"),
    **dict.fromkeys(("f1", "f1_unicode"), "graded"),
    "searches": "count",
    **dict.fromkeys(OUTCOMES, "binary"),
    "truthfulness": "signed",
    "recall": "graded",
}
"""The kind of each metric, which chooses its interval."""
_EXTRA_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("zerosearch_em", "r1_searcher_em", "r1_searcher_cover_em", "deepresearcher_em", JUDGE), "binary"),
    **dict.fromkeys(("research_f1", "r1_searcher_f1", "deepresearcher_f1"), "graded"),
}
"""The kind of additional scores; one that is not listed may have any range."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One finished episode, reduced to the figures that the tables need."""

    index: int
    """Position of the question in its dataset. Together with the evaluation's seed it determines every random draw."""
    question_id: str
    group: str
    """`"1-hop"`, `"2-hop"`, ..., or `""` if the question has no such metadata."""
    em: float
    f1: float
    subem: float
    em_unicode: float
    f1_unicode: float
    searches: int
    turns: int
    invalid: int
    """Turns without a well-formed action."""
    noisy: int
    """Number of noise draws that came out noisy. A draw is per search or per document (`noise_unit` of the rules)."""
    draws: int
    """Number of noise draws."""
    stop_reason: str
    prediction: str | None = None
    error: str | None = None
    """The failure of the engine or of the agent's code, if any. Such an episode is counted but excluded from every
    mean, and played again when the evaluation is continued."""
    data_source: str = ""
    """The data set that the question comes from (`Question.dataset`)."""
    extra: Mapping[str, float | None] = field(default_factory=dict)
    """Additional scores by name; None if one has no value."""
    sample: int = 0
    """Number of the sample of its question, from 0."""
    tokens_read: int | None = None
    """Tokens that the agent's model read, over all turns; None if they are not counted."""
    tokens_written: int | None = None
    """Tokens that the agent's model wrote, thoughts included; None if they are not counted."""
    misled: float | None = None
    """1 if the answer is a wrong one that documents of this episode stated, else 0."""
    abstained: float | None = None
    """1 if the agent declined to answer, with one of the rules' phrases, else 0."""
    hallucinated: float | None = None
    """1 if there is an answer that is wrong and no abstention, else 0."""
    found: tuple[int, ...] = ()
    """Per turn that searched, in order: 1 if an answer was in its documents, 0 if not, -1 if the question has no gold
    answer. Empty in results of earlier versions."""
    noisy_searches: tuple[int, ...] = ()
    """Per turn that searched, in order: 1 if any draw of its searches came out noisy, else 0. As `found`."""
    recall: float | None = None
    """Share of the question's supporting paragraphs that searches of the episode returned; see `paragraph_recall`. None
    if the dataset does not name them."""
    relation: str = ""
    """What the question asks for (`metadata["relation"]`, or the names in `metadata["relations"]`), if it says so."""

    @property
    def truthfulness(self) -> float | None:
        """1 for a right answer, 0 for an abstention or none, -1 for a wrong answer: `em - hallucinated`."""
        return None if self.hallucinated is None else self.em - self.hallucinated

    @property
    def key(self) -> tuple[int, int]:
        """Identifies the episode within its cell: the question's index, and the sample."""
        return self.index, self.sample

    @property
    def subsets(self) -> tuple[str, str, str]:
        """Which of the subsets of questions it belongs to that results are broken down by, see `Cell.select`."""
        return self.group, self.data_source, self.relation

    @property
    def failed(self) -> bool:
        """True when a failure of the engine or of the agent's code ended the episode."""
        return StopReason(self.stop_reason).failed

    def score(self, metric: str) -> float | None:
        """One of `METRIC_KINDS`, or an additional score; None if it has no value."""
        value: float | None = getattr(self, metric) if metric in METRIC_KINDS else self.extra.get(metric)
        return value


_RECORDED = frozenset((*METRICS, *OUTCOMES, "searches", "prediction", "reward", "counterfactual"))
"""Entries of a transcript's scores that are not additional scores."""
_TOKENS = ("tokens_read", "tokens_written")
_LISTS = ("found", "noisy_searches")
_COLUMNS = tuple(column.name for column in fields(EpisodeResult))


def episode_result(record: JsonObject) -> EpisodeResult:
    """Reduce the transcript of a finished episode to its result.

    Args:
        record: a record of `transcript_record`, with `index` (position of the question in its dataset), `hops` and, if
            it is not 0, `sample` in its `extra`.

    Raises:
        DataError: the episode is not over, or the record lacks an entry.
    """
    try:
        question, turns, scores, extra = (record[name] for name in ("question", "turns", "scores", "extra"))
        searched = [turn for turn in turns if turn["noisy"] is not None]
        draws = [turn["noisy"] if isinstance(turn["noisy"], list) else [turn["noisy"]] for turn in searched]
        flags = [flag for draw in draws for flag in draw]
        hops, tokens = extra["hops"], record.get("tokens", {})
        return EpisodeResult(
            index=extra["index"],
            question_id=question["id"],
            group=f"{hops}-hop" if hops else "",
            **{name: scores[name] for name in (*METRICS, "searches", "prediction")},
            turns=len(turns),
            invalid=sum(turn["action"] == "invalid" for turn in turns),
            noisy=sum(flags),
            draws=len(flags),
            stop_reason=record["stop_reason"],
            error=record["error"],
            data_source=question["dataset"],
            extra={name: value for name, value in scores.items() if name not in _RECORDED},
            sample=extra.get("sample", 0),
            tokens_read=tokens.get("read"),
            tokens_written=tokens.get("written"),
            **{name: scores.get(name) for name in OUTCOMES},
            found=tuple(int(bool(turn["answer_in_documents"])) if record["answers"] else -1 for turn in searched),
            noisy_searches=tuple(int(any(draw)) for draw in draws),
            recall=paragraph_recall(record),
            relation=extra.get("relation", ""),
        )
    except (KeyError, TypeError) as cause:
        raise DataError(f"not the transcript of a finished episode ({cause!r})") from cause


def paragraph_recall(record: JsonObject) -> float | None:
    """Share of the question's supporting paragraphs that any search of a recorded episode returned.

    This is recall@k of all searches together, with the k documents of each. Paragraphs are compared by title, because
    corpora cut their texts differently; so it means something only for engines that search a corpus with titles, and
    where several passages share a title, one of them is enough. Noisy documents do not count: some kinds of noise
    change what they say.

    Returns:
        A share from 0 to 1; None if the record names no supporting paragraphs.
    """
    if not (names := record["question"].get("supporting")):
        return None
    returned = {
        _title_key(document["title"])
        for turn in record["turns"]
        if turn["noisy"] is not None
        for document, noisy in zip(turn["documents"], noisy_flags(turn), strict=True)
        if not noisy
    }
    wanted = {_title_key(name) for name in names}
    return len(wanted & returned) / len(wanted)


def _title_key(title: str) -> str:
    """A title without case, underscores and the quotation marks that the passages of Search-R1's Wikipedia have."""
    return " ".join(title.casefold().replace("_", " ").strip(' "').split())


def episode_row(result: EpisodeResult) -> dict[str, Any]:
    """Plain JSON values, without entries that few evaluations have: the number of the first sample is one."""
    row = {name: getattr(result, name) for name in _COLUMNS} | {"extra": dict(result.extra)}
    optional = {"extra", "sample", *_TOKENS, *_LISTS, "relation"}
    optional |= {name for name in (*OUTCOMES, "recall") if row[name] is None}
    return {name: value for name, value in row.items() if value or name not in optional}


def read_row(row: Mapping[str, Any]) -> EpisodeResult:
    """The inverse of `episode_row`.

    Raises:
        TypeError: an entry is missing or unknown.
    """
    return EpisodeResult(**{**row, **{name: tuple(row[name]) for name in _LISTS if name in row}})


def metric_kind(metric: str, samples: int = 1) -> Kind:
    """The kind of a metric, or of its means over several samples of a question."""
    kind = METRIC_KINDS.get(metric) or _EXTRA_KINDS.get(metric, "count")
    return "graded" if kind == "binary" and samples > 1 else kind


def by_question(values: Iterable[tuple[EpisodeResult, float]]) -> dict[int, float]:
    """The mean value of each question's samples, by its index; with one sample, the value."""
    of_question: dict[int, list[float]] = {}
    for result, value in values:
        of_question.setdefault(result.index, []).append(value)
    return {index: sum(values) / len(values) for index, values in of_question.items()}


def with_values(results: Iterable[EpisodeResult], metric: str) -> Iterator[tuple[EpisodeResult, float]]:
    """The episodes in which a metric has a value, each with it."""
    return ((result, value) for result in results if (value := result.score(metric)) is not None)
