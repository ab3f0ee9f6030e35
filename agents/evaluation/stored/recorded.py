"""A finished episode as its transcript tells it: what rewards and scores read, made again without playing.

    transcript record -> RecordedEpisode -> a reward or score (docs/rewards.md)

It has the question, the turns with their steps, the prediction and its scores, as an `Episode` has them. What a
transcript does not hold is missing: the metadata and the paragraphs of the question, and the scores of documents beyond
those recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast

from zerosearch_env.errors import DataError
from zerosearch_env.game.answers import documents_contain_answer
from zerosearch_env.game.noise_kinds import DISTRACTOR
from zerosearch_env.game.rules import Rules
from zerosearch_env.protocols import Protocol
from zerosearch_env.records.transcripts import search_groups
from zerosearch_env.types import (
    ActionKind,
    Document,
    JsonObject,
    Question,
    Scores,
    Searched,
    Step,
    StopReason,
    Turn,
)

_FIGURES = ("em", "f1", "subem", "em_unicode", "f1_unicode", "misled", "abstained", "hallucinated")


@dataclass
class RecordedEpisode:
    """What a reward may read of a finished episode (`FinishedEpisode`), and the rest of what `Episode` shows."""

    question: Question
    rules: Rules
    """The protocol's rules, with the notice that this episode's last turn had."""
    turns: tuple[Turn, ...]
    scores: Scores
    prompt: str
    noise_level: float
    seed: int
    stop_reason: StopReason
    done: bool = True

    @property
    def searches(self) -> int:
        """Number of searches."""
        return self.scores.searches

    @cached_property
    def text(self) -> str:
        """The transcript: the prompt, then each turn's text and observation; see `Episode.text`."""
        return "".join([self.prompt, *(part for turn in self.turns for part in (turn.context_text, _seen(turn)))])


def _seen(turn: Turn) -> str:
    return turn.step.observation


def recorded_episode(record: JsonObject, rules: Rules) -> RecordedEpisode:
    """The finished episode of a transcript.

    Args:
        record: a transcript (`zerosearch_env.records.transcripts`).
        rules: the rules of the transcript's protocol.

    Raises:
        DataError: the episode is not over, the record lacks an entry, or it is of another protocol.
    """
    try:
        if record["protocol"] != rules.protocol.name:
            raise DataError(
                f"the transcript is of protocol {record['protocol']!r}, and the rules are those of "
                f"{rules.protocol.name!r}"
            )
        return _episode(record, rules)
    except (AttributeError, KeyError, TypeError, ValueError) as cause:
        raise DataError(f"not the transcript of a finished episode ({cause!r})") from cause


def _episode(record: JsonObject, rules: Rules) -> RecordedEpisode:
    asked, answers = record["question"], tuple(record["answers"])
    question = Question(asked["id"], asked["text"], answers, asked["dataset"], asked["split"])
    scores, reason = _scores(record, answers), StopReason(record["stop_reason"])
    noise = record["noise_level"], record.get("noise_kind", str(DISTRACTOR))
    turns = [_turn(turn, rules.protocol, answers, *noise) for turn in record["turns"]]
    if turns:
        last = turns[-1]
        step = replace(last.step, stop_reason=reason, scores=scores, error=record["error"])
        turns[-1] = replace(last, step=step)
    notice = _last_turn_notice(record, rules.protocol)
    return RecordedEpisode(
        question,
        rules if notice is None else replace(rules, last_turn_notice=notice),
        tuple(turns),
        scores,
        record["prompt"],
        record["noise_level"],
        record["seed"],
        reason,
    )


def _scores(record: JsonObject, answers: tuple[str, ...]) -> Scores:
    values = record["scores"]
    figures: dict[str, Any] = {name: math.nan if values.get(name) is None else values[name] for name in _FIGURES}
    return Scores(
        values["prediction"],
        answers,
        reward=0.0,  # as for every reward and score: it is being computed
        searches=values["searches"],
        counterfactual=values.get("counterfactual"),
        noise_kind=tuple(part.get("kind") for turn in record["turns"] for part in turn.get("searches", ())),
        **figures,
    )


def _turn(turn: JsonObject, protocol: Protocol, answers: tuple[str, ...], level: float, noise_kind: str) -> Turn:
    documents = tuple(_document(each) for each in turn["documents"])
    flags = tuple(turn["noisy"]) if isinstance(turn["noisy"], list) else turn["noisy"]
    step = Step(
        turn["observation"],
        cast("ActionKind", turn["action"]),
        turn["turn"],
        level,
        turn["query"],
        documents,
        flags,
        partial(_state_answer, answers) if answers and turn["answer_in_documents"] is not None else None,
        searches=_searches(turn, noise_kind),
        messages=tuple((message["role"], message["content"]) for message in turn.get("messages", ())),
    )
    action = protocol.parse(turn["action_text"])
    whole = action.kind != turn["action"] or action.end == len(turn["action_text"])
    return Turn(turn["action_text"], step, None if whole else action.end)


def _searches(turn: JsonObject, noise_kind: str) -> tuple[Searched, ...] | None:
    """`Step.searches`: None if the turn's query, documents and noise describe its one search."""
    parts = turn.get("searches", ())
    if turn["noisy"] is None or not parts or (len(parts) == 1 and noise_kind == str(DISTRACTOR)):
        return None
    return tuple(
        Searched(
            part["query"],
            tuple(part["noisy"]) if isinstance(part["noisy"], list) else part["noisy"],
            tuple(_document(each) for each in group["documents"]),
            part.get("kind"),
            part.get("message"),
            tuple(part.get("wrong_answers", ())),
        )
        for part, group in zip(parts, search_groups(turn), strict=True)
    )


def _document(values: JsonObject) -> Document:
    return Document(values["title"], values["text"], values["source"], values["score"])


def _state_answer(answers: tuple[str, ...], documents: tuple[Document, ...]) -> bool:
    return documents_contain_answer(documents, answers)


def _last_turn_notice(record: JsonObject, protocol: Protocol) -> str | None:
    """What follows the documents in the observation before the last turn; None if no observation shows it.

    An agent may have another notice, from the card of its checkpoint, and a transcript does not say which.
    """
    if protocol.render_call is not None:
        return None  # results are inside tags there, and the notice is the protocol's
    for turn in record["turns"]:
        if turn["noisy"] is None:
            continue
        shown = "".join(_shown(group, protocol) for group in search_groups(turn))
        rest: str = turn["observation"].removeprefix(shown)
        if rest and rest != turn["observation"]:
            return rest
    return None


def _shown(group: JsonObject, protocol: Protocol) -> str:
    if group["message"] is not None:
        return protocol.show_message(group["message"], group["query"])
    return protocol.render_documents([_document(each) for each in group["documents"]], group["query"])
