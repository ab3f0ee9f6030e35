"""The rules shared by all episodes of an environment, and the checks of their values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from ..checks import check_whole_number
from ..errors import ConfigError, DataError, unknown_name
from ..loading import load_attribute, names_code
from ..protocols import Protocol, get_protocol
from ..protocols.base import check_prompt
from ..protocols.prompts import DATASET_PROMPT, PLACEHOLDER, load_few_shot, load_prompt_template
from ..types import JsonObject, Options, Question
from .reward_registry import Reward, ScoreSpec, get_reward, get_scores
from .rewards import answer_key, exact_match

NoiseUnit = Literal["search", "document"]

ABSTENTIONS = (
    "unknown",
    "I don't know",
    "I do not know",
    "don't know",
    "not known",
    "no answer",
    "cannot answer",
    "can't answer",
    "cannot be determined",
    "cannot determine",
    "not enough information",
    "insufficient information",
    "unanswerable",
    "unsure",
    "not sure",
    "I am not sure",
    "I'm not sure",
    "N/A",
)
"""Answers that abstain, by default."""
NOTICES = ("own", "reference", "none")
"""The words that select a notice; see `choose_notices`."""


@dataclass(frozen=True)
class Rules:
    """The rules shared by all episodes of an environment. Create them with `make_rules`, which checks every value."""

    protocol: Protocol
    prompt_template: str
    """The instruction; contains `{question}`. `"dataset"`: each question's own prompt."""
    invalid_notice: str | None
    """The observation after an invalid turn. None: an invalid turn ends the episode (`NO_ACTION`)."""
    last_turn_notice: str
    """Appended to the observation when the next turn may only answer; may be empty."""
    max_turns: int = 5
    """Number of turns that may search; invalid turns count too. One more turn follows, which may only answer."""
    top_k: int = 5
    """Documents per search."""
    reward: Reward = exact_match
    """Given once, at the end of the episode."""
    noise_unit: NoiseUnit = "search"
    """Whether noise is drawn once per search (as in the paper) or once per document."""
    max_action_chars: int = 65_536
    """A longer text in one turn ends the episode (`TOO_LONG`)."""
    max_query_chars: int = 512
    """Longer queries are cut to this length."""
    scores: tuple[tuple[str, Reward], ...] = ()
    """Name and function of each additional score."""
    few_shot: str = ""
    """Worked examples that are shown before the instruction; may be empty."""
    abstentions: tuple[str, ...] = ABSTENTIONS
    """Answers that abstain. A prediction that is one of them as a whole, once normalised, is not a hallucination."""
    answers_required: bool = True
    """Whether every question needs gold answers. If False, an episode without any has no scores (NaN, null in
    transcripts) and must have noise level 0."""
    given: Options = field(default_factory=dict, compare=False, repr=False)
    """The arguments of `make_rules` that were given, for which an agent may have its own values (see
    `agent_rules`)."""

    @cached_property
    def waits(self) -> bool:
        """Whether the reward or a score waits for a server, so that many episodes should end at the same time."""
        return any(getattr(reward, "waits", False) for reward in (self.reward, *(score for _, score in self.scores)))

    @cached_property
    def abstention_keys(self) -> frozenset[str]:
        """The normalised abstentions (`rewards.answer_key`)."""
        return frozenset(map(answer_key, self.abstentions))

    @cached_property
    def prompt_pieces(self) -> tuple[str, ...]:
        """The instruction split at every `{question}`; `question.join(prompt_pieces)` is the prompt.

        `str.format` is not used, so all other braces in the instruction and in the question are ordinary text.
        """
        return self.pieces_of(self.prompt_template)

    def pieces_of(self, template: str) -> tuple[str, ...]:
        """An instruction after the worked examples, split at every `{question}`; the examples may contain it."""
        first, *rest = template.split(PLACEHOLDER)
        return (self._examples + first, *rest)

    @property
    def _examples(self) -> str:
        """The worked examples and a blank line, or nothing."""
        return f"{self.few_shot}\n\n" if self.few_shot else ""

    @property
    def dataset_prompts(self) -> bool:
        """Whether each question is asked with the prompt of its own row."""
        return self.prompt_template == DATASET_PROMPT

    def prompt(self, question: Question) -> str:
        """The first text for the policy. The messages of a row's own prompt are joined by line breaks.

        Raises:
            DataError: the prompts come from the dataset, and the question has none.
        """
        if self.prompt_template != DATASET_PROMPT:
            return question.text.join(self.prompt_pieces)
        return "\n".join(str(message["content"]) for message in self.messages(question))

    def messages(self, question: Question) -> tuple[JsonObject, ...]:
        """The first messages for a chat model: those of the row's own prompt, or the prompt as one user message.

        Raises:
            DataError: the prompts come from the dataset, and the question has none.
        """
        if self.prompt_template != DATASET_PROMPT:
            return ({"role": "user", "content": self.prompt(question)},)
        if not question.prompt:
            raise DataError(
                f"prompt_template={DATASET_PROMPT!r} takes the prompt from the row of each question, but "
                f"{question.id!r} of {question.dataset or 'this dataset'!r} has none: expected a column 'prompt' with "
                'a text or messages such as [{"role": "user", "content": "..."}]. columns={"prompt": ...} can name '
                "another column."
            )
        if not self.few_shot:
            return question.prompt
        messages = list(question.prompt)
        first = next((number for number, message in enumerate(messages) if message["role"] == "user"), 0)
        messages[first] = {**messages[first], "content": f"{self._examples}{messages[first]['content']}"}
        return tuple(messages)


def choose_notices(
    protocol: Protocol, invalid_notice: str = "own", last_turn_notice: str = "own"
) -> tuple[str | None, str]:
    """The texts of `Rules.invalid_notice` and `Rules.last_turn_notice`.

    Each argument is `"own"` (this package's words), `"reference"` (as in the published loop: the invalid notice's
    place and white space, or the end of the episode; no published loop announces the last turn), `"none"` (no text:
    the episode continues with an empty observation), or a text.

    Args:
        protocol: the protocol that has the notices.
        invalid_notice: a word of `NOTICES` or a text.
        last_turn_notice: a word of `NOTICES` or a text.

    Raises:
        ConfigError: an argument is not a string, or a single word that is not in `NOTICES`.
    """
    for name, notice in (("invalid_notice", invalid_notice), ("last_turn_notice", last_turn_notice)):
        if not isinstance(notice, str):
            raise ConfigError(f"{name} must be {', '.join(NOTICES)} or a text, got {notice!r}.")
        if notice not in NOTICES and len(notice.split()) < 2:
            raise unknown_name(f"{name} (a text has at least two words)", notice, NOTICES)
    invalid: dict[str, str | None] = {
        "own": protocol.invalid_notice,
        "reference": protocol.reference_invalid_notice,
        "none": "",
    }
    last_turn = {"own": protocol.last_turn_notice, "reference": "", "none": ""}
    return invalid.get(invalid_notice, invalid_notice), last_turn.get(last_turn_notice, last_turn_notice)


def make_rules(
    *,
    protocol: str | Protocol | None = None,
    prompt_template: str | os.PathLike[str] | None = None,
    max_turns: int | None = None,
    top_k: int | None = None,
    invalid_notice: str | None = None,
    last_turn_notice: str | None = None,
    few_shot: str | os.PathLike[str] | None = None,
    reward: ScoreSpec = "em",
    scores: Sequence[ScoreSpec] = (),
    noise_unit: str = "search",
    abstentions: Sequence[str] | None = None,
    max_action_chars: int = 65_536,
    max_query_chars: int = 512,
) -> Rules:
    """Check every value and create the rules.

    Args:
        protocol: a registered name, a `Protocol`, or `"module:attribute"` or `"file.py:attribute"`, which is loaded.
        prompt_template: a string or a file that contains `{question}`, or `"dataset"` for the prompts in the rows of
            the dataset; None: the protocol's default.
        max_turns: number of turns that may search, at least 1; None: the protocol's default.
        top_k: documents per search, at least 1; None: the protocol's default.
        invalid_notice: what follows an invalid turn; see `choose_notices`. None: `"own"`.
        last_turn_notice: the text before a turn that may only answer; see `choose_notices`. None: `"own"`.
        few_shot: worked examples, a text or a file, that are shown before the instruction with a blank line between;
            None: none.
        reward: a name such as `"em"` or `"f1"` (docs/rewards.md lists all), `"judge:openai:URL"`, a callable
            (episode) or (prediction or None, answers) -> finite number, or `"module:attribute"` or
            `"file.py:attribute"`, which is loaded.
        scores: additional scores, computed at the end of every episode: what `reward` may be. They are part of infos,
            transcripts, metrics and results.
        noise_unit: `"search"` or `"document"`.
        abstentions: answers that count as abstaining instead of wrong; None: `ABSTENTIONS`.
        max_action_chars: longest accepted text of one turn, in characters.
        max_query_chars: maximum length of a query, in characters; longer ones are cut.

    Raises:
        ConfigError: a value is invalid. For an unknown name, the message suggests the most similar valid one.
    """
    # Loaded here, and not in `get_protocol`, which also looks up the names on the cards of checkpoints.
    named: str | Protocol = "zerosearch" if protocol is None else protocol
    chosen = get_protocol(load_attribute(str(named), "protocol") if names_code(named) else named)
    if noise_unit not in get_args(NoiseUnit):
        raise unknown_name("noise_unit", noise_unit, get_args(NoiseUnit))
    given: dict[str, Any] = {
        "protocol": protocol,
        "prompt_template": prompt_template,
        "max_turns": max_turns,
        "top_k": top_k,
        "invalid_notice": invalid_notice,
        "last_turn_notice": last_turn_notice,
        "few_shot": few_shot,
    }
    examples = "" if few_shot is None else load_few_shot(few_shot)
    check_prompt(chosen, examples)
    template = load_prompt_template(chosen.prompt_template if prompt_template is None else prompt_template)
    check_prompt(chosen, template)
    invalid_notice_text, last_turn_notice_text = choose_notices(
        chosen,
        "own" if invalid_notice is None else invalid_notice,
        "own" if last_turn_notice is None else last_turn_notice,
    )
    return Rules(
        protocol=chosen,
        prompt_template=template,
        invalid_notice=invalid_notice_text,
        last_turn_notice=last_turn_notice_text,
        max_turns=check_whole_number("max_turns", chosen.max_turns if max_turns is None else max_turns),
        top_k=check_whole_number("top_k", chosen.top_k if top_k is None else top_k),
        reward=get_reward(reward),
        scores=get_scores(scores),
        few_shot=examples,
        noise_unit=noise_unit,  # type: ignore[arg-type]
        abstentions=_check_abstentions(abstentions),
        max_action_chars=check_whole_number("max_action_chars", max_action_chars),
        max_query_chars=check_whole_number("max_query_chars", max_query_chars),
        given={name: value for name, value in given.items() if value is not None},
    )


def _check_abstentions(abstentions: Sequence[str] | None) -> tuple[str, ...]:
    if abstentions is None:
        return ABSTENTIONS
    if isinstance(abstentions, str) or not all(isinstance(phrase, str) and phrase.strip() for phrase in abstentions):
        raise ConfigError(
            f'abstentions must be a list of answers such as ["unknown", "I don\'t know"], got {abstentions!r}.'
        )
    return tuple(abstentions)


# Any: `make_rules` checks the values
def agent_rules(rules: Rules, **own: Any) -> Rules:
    """The rules for an agent that was trained with values of its own.

    What the caller of `make_rules` gave applies to every agent. The rest is the agent's own or, if it has none, its
    protocol's.

    Args:
        rules: the rules of an environment or an evaluation.
        **own: the agent's own `protocol`, `prompt_template`, `max_turns`, `top_k`, `invalid_notice`,
            `last_turn_notice` and `few_shot`; None: it has none.

    Raises:
        ConfigError: a value is invalid, or the prompt shows tags of another protocol.
    """
    return _remade(rules, {name: value for name, value in own.items() if value is not None}, rules.given)


# Any: likewise
def changed_rules(rules: Rules, changes: Mapping[str, Any]) -> Rules:
    """The rules as if `make_rules` had been given these arguments too; they replace given ones of the same name.

    Args:
        rules: the rules of an evaluation.
        changes: what the user gave for one agent: arguments of `make_rules`.

    Raises:
        ConfigError: a value is invalid, or the prompt shows tags of another protocol.
    """
    return _remade(rules, {}, {**rules.given, **changes}) if changes else rules


def _remade(rules: Rules, own: Mapping[str, Any], given: Mapping[str, Any]) -> Rules:
    values = {"protocol": rules.protocol, **own, **given}
    if "protocol" in given and given["protocol"] == rules.given.get("protocol"):
        values["protocol"] = rules.protocol  # code that was named is not loaded twice
    made = make_rules(**values)
    return replace(
        made,
        reward=rules.reward,
        scores=rules.scores,
        noise_unit=rules.noise_unit,
        abstentions=rules.abstentions,
        max_action_chars=rules.max_action_chars,
        max_query_chars=rules.max_query_chars,
        answers_required=rules.answers_required,
        given=given,
    )
