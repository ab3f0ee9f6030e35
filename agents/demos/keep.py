"""Which episodes become demonstrations: conditions on their scores, and a maximum per question."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from zerosearch_env.errors import ConfigError, unknown_name
from zerosearch_env.records.transcripts import was_played
from zerosearch_env.types import JsonObject, Scores

_COMPARE = {">=": operator.ge, "<=": operator.le, "=": operator.eq}
_CONDITION = re.compile(r"\s*([A-Za-z_][\w.:#/-]*?)\s*(>=|<=|=)\s*([+-]?\d+(?:\.\d+)?)\s*")
_NOT_NUMBERS = frozenset({"prediction", "answers", "extra", "counterfactual", "noise_kind"})
RECORDED = tuple(field.name for field in fields(Scores) if field.name not in _NOT_NUMBERS)
"""The scores of every transcript; an evaluation may add others."""


@dataclass(frozen=True)
class Condition:
    """A bound on a score, such as `em=1`, `f1>=0.8` or `searches<=3`."""

    score: str
    comparison: str
    """">=", "<=" or "="."""
    bound: float

    def __str__(self) -> str:
        return f"{self.score}{self.comparison}{self.bound:g}"

    def holds(self, scores: JsonObject) -> bool:
        """Whether the recorded scores of an episode meet it; a score without a value does not.

        Raises:
            ConfigError: there is no such score.
        """
        value = scores[self.check([name for name in scores if name not in _NOT_NUMBERS])]
        return value is not None and _COMPARE[self.comparison](value, self.bound)

    def check(self, names: Collection[str]) -> str:
        """The score's name.

        Raises:
            ConfigError: it is not among `names`.
        """
        if self.score not in names:
            raise unknown_name("score in --keep", self.score, names)
        return self.score


def parse_condition(text: str) -> Condition:
    """Read a condition: a score's name, ">=", "<=" or "=", and a number.

    Raises:
        ConfigError: the text is none.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"--keep: expected a condition such as em=1, f1>=0.8 or searches<=3, got {text!r}")
    return Condition(match[1], match[2], float(match[3]))


def select(
    records: Iterable[JsonObject], conditions: Sequence[Condition], per_question: int | None = None
) -> Iterator[JsonObject]:
    """The finished episodes that meet all conditions, in order.

    An episode whose turns are those of an earlier one on the same question is left out.

    Args:
        records: transcripts.
        conditions: what their scores must meet.
        per_question: maximum number of episodes of each question; None: no maximum.

    Raises:
        ConfigError: a condition names an unknown score.
    """
    kept: Counter[tuple[str, ...]] = Counter()
    seen: set[tuple[str, ...]] = set()
    for record in records:
        if not is_finished(record) or not all(condition.holds(record["scores"]) for condition in conditions):
            continue
        question = question_key(record)
        turns = (*question, *(turn["action_text"] for turn in record["turns"]))
        if turns in seen or (per_question is not None and kept[question] >= per_question):
            continue
        seen.add(turns)
        kept[question] += 1
        yield record


def is_finished(record: JsonObject) -> bool:
    """Whether the episode of a transcript was played to its end, and has scores."""
    return was_played(record) and record["scores"] is not None


def question_key(record: JsonObject) -> tuple[str, ...]:
    """Identifies the question of a transcript."""
    question = record["question"]
    return tuple(str(question.get(name)) for name in ("dataset", "split", "id", "text"))


def mean_scores(records: Iterable[JsonObject]) -> dict[str, float]:
    """The mean of every score over finished episodes, and their number as `episodes`."""
    totals: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for record in filter(is_finished, records):
        counts["episodes"] += 1
        for name, value in record["scores"].items():
            if name not in _NOT_NUMBERS and value is not None:
                totals[name] += value
                counts[name] += 1
    return {"episodes": counts["episodes"]} | {name: totals[name] / counts[name] for name in totals}
