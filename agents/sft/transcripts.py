"""From transcripts to training rows: an episode has exactly the tokens that it has in a rollout.

    ids       [ prompt | turn 1 | documents | turn 2 | end ]
    trained   [ 0 0 0  | 1 1 1  | 0 0 0 0 0 | 1 1 1  | 1   ]

Prompts and observations go through `TurnEncoder`, as in `rollouts/rollout.py`; the prompt is that of the rules, made
from the transcript's question. A turn ends where a sampler would end it: at the token that completes a stop string,
else with the end token, which is trained on too. Text after a stop string is cut off, because a sampler never writes
it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules
from zerosearch_env.llm.chat_format import PromptFormat, TurnEncoder
from zerosearch_env.types import ActionKind, JsonObject, Question, Step, StopReason

from ..sampling.stops import StopFinder, decode
from .rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def transcript_rows(
    records: Sequence[JsonObject],
    tokenizer: PreTrainedTokenizerBase,
    rules: Rules,
    format: PromptFormat | None = None,
    *,
    turn_tokens: int | None = None,
) -> list[Row]:
    """One row per transcript, with the policy's own tokens trained on.

    Args:
        records: transcripts of finished episodes (`zerosearch_env.records.transcripts`).
        tokenizer: the policy's tokenizer.
        rules: the rules by which the policy plays; the prompts are theirs.
        format: how prompts and observations are shown to the model; None: as plain text.
        turn_tokens: maximum tokens per turn of the policy that is trained. A turn of so many tokens without a stop
            string was cut off by this limit, so no end token follows it. None: no turn was cut off.

    Raises:
        ConfigError: a transcript is of another protocol, the chat template cannot show an episode, or a turn needs an
            end token and the tokenizer has none.
    """
    for record in records:
        if record["protocol"] != rules.protocol.name:
            raise ConfigError(
                f"a transcript is of protocol {record['protocol']!r}, but the policy plays {rules.protocol.name!r}: "
                f"their turns have different tags. Pass --protocol {record['protocol']}, or make demonstrations of "
                f"{rules.protocol.name!r}."
            )
    encoder = TurnEncoder(tokenizer, rules, format)
    turns = _TurnIds(tokenizer, rules, encoder.end_id, turn_tokens)
    prompts = encoder.prompts([_episode(record, rules) for record in records])
    return [_row(record, prompt, encoder, turns) for record, prompt in zip(records, prompts, strict=True)]


class _TurnIds:
    """The tokens of a turn's text, and the end token that ends it, if one does."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, rules: Rules, end_id: int | None, turn_tokens: int | None
    ) -> None:
        self._tokenizer, self._end_id, self._limit = tokenizer, end_id, turn_tokens
        self._stops = StopFinder(tokenizer, rules.protocol.stop_strings, len(tokenizer))

    def encode(self, text: str, *, cut_off: bool) -> tuple[list[int], str, int | None]:
        """Ids of a turn, its text, and its end token; `cut_off`: the episode ended in the middle of the turn."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        for count, number in enumerate(ids, 1):
            if self._stops.candidates[number] and self._stops.completed(ids[:count]):
                return (ids, text, None) if count == len(ids) else (ids[:count], self._text(ids[:count]), None)
        if cut_off or len(ids) == self._limit:
            return ids, text, None
        if self._end_id is None:
            raise ConfigError(
                "a turn ends without a stop string, and the tokenizer has no end-of-sequence token to end it with: "
                "set eos_token in its tokenizer_config.json."
            )
        return [*ids, self._end_id], text, self._end_id

    def _text(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids)


def _row(record: JsonObject, prompt: list[int], encoder: TurnEncoder, turns: _TurnIds) -> Row:
    # Arrays, because a file may hold a hundred thousand episodes.
    row = Row(array("i", prompt), bytearray(len(prompt)))
    recorded = list(record["turns"])
    out_of_room = record["stop_reason"] == StopReason.CONTEXT_LIMIT
    if out_of_room and recorded and not recorded[-1]["action_text"]:
        recorded.pop()  # the last observation did not fit, so the policy never saw it
        out_of_room = False
    opening = encoder.opening()
    for number, turn in enumerate(recorded, 1):
        last = number == len(recorded)
        text = _without_opening(turn["action_text"], opening)
        ids, text, end = turns.encode(text, cut_off=last and out_of_room)
        row.ids.extend(ids)
        row.trained.extend([True] * len(ids))
        if last:
            break
        step = _step(turn)
        observation = encoder.observations([step], [(text, end)])[0]
        row.ids.extend(observation)
        row.trained.extend([False] * len(observation))
        opening = encoder.opening(step, end)
    return row


def _episode(record: JsonObject, rules: Rules) -> Episode:
    """The episode of a transcript before its first turn."""
    question, prompt = record["question"], None
    if rules.dataset_prompts:  # a transcript holds the text of the row's own prompt, worked examples included
        rules = replace(rules, few_shot="")
        prompt = ({"role": "user", "content": record["prompt"]},)
    answers = tuple(record["answers"])
    asked = Question(question["id"], question["text"], answers, prompt=prompt)
    return Episode(asked, rules if answers else replace(rules, answers_required=False))


def _step(turn: JsonObject) -> Step:
    """What `TurnEncoder` reads of a turn's step."""
    messages = tuple((message["role"], message["content"]) for message in turn.get("messages", ()))
    return Step(turn["observation"], cast("ActionKind", turn["action"]), turn["turn"], 0.0, messages=messages)


def _without_opening(text: str, opening: str) -> str:
    """A turn without what its context holds of it already; a demonstration may write it with other white space."""
    if text.startswith(opening):
        return text[len(opening) :]
    start, rest = opening.strip(), text.lstrip()
    return rest[len(start) :] if rest.startswith(start) else text
