"""How the text of episodes becomes tokens: prompts, and what is appended after each turn of the policy.

A plain model reads one text: the prompt, its turns and the observations, each appended as it is. A chat model
(`PromptFormat.chat`) reads messages in its tokenizer's chat template:

    prompt        [system]  [user: instruction and question]  [assistant:
    turn 1                                                                 <tool_call>...</tool_call> ]
    observation   [tool: documents]  [user: notice]           [assistant:
    turn 2                                                                 the final answer ]

Whether an observation opens a new turn of the assistant depends on the protocol and on the turn. With
`observation_role = "tool"` it always does. Otherwise it continues the assistant's turn, as the published systems do,
unless the model itself has ended its turn with an end-of-sequence token.

The text between two turns is never written per model. A short conversation is rendered once with the template, with
marks in place of all contents, and the text between the marks is the frame of every later observation. So a
conversation has the ids that `apply_chat_template` gives its messages, except that the policy's own tokens are kept as
they were sampled. (Templates that rewrite earlier turns, such as Qwen3's, which removes old thoughts when the user
speaks again, would change tokens that the policy has already read; here they stay.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checks import check_whole_number
from ..errors import ConfigError
from .chat_template import ChatTemplate, read_chat_template
from .tokens import BARE, Frame, encode_chats, encode_framed, encode_prompts

if TYPE_CHECKING:
    from ..game.episode import Episode
    from ..game.rules import Rules
    from ..types import JsonObject, Step


@dataclass(frozen=True)
class PromptFormat:
    """How prompts and observations are shown to a model. The defaults are those of a model without a chat template."""

    chat: bool = False
    """Whether the tokenizer's chat template is used. The fields below up to `prefill` need it."""
    system: str | None = None
    """The system message; None: none, so that the template may write its own."""
    thinking: bool | None = None
    """Whether the model thinks, for templates with that switch; None: the template's default."""
    tools: bool = True
    """Whether a protocol's tools are described by the chat template (`tools=`), which then also writes their results.
    False: the prompt's own text describes them, and results are a user message with the protocol's tags, as in
    ReCall."""
    prefill: str = ""
    """Text with which every turn of the assistant begins, such as `<think>`; it is not sampled."""
    max_observation_tokens: int | None = None
    """Longer observations are cut to this many tokens, whatever is lost; None: no limit."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a field needs `chat`, or the limit is not a positive whole number.
        """
        if not self.chat:
            for name, given in (("system", self.system), ("thinking", self.thinking), ("prefill", self.prefill)):
                if given is not None and given != "":
                    raise ConfigError(
                        f"{name} = {given!r} needs chat = true: without a chat template the prompt is one text. Write "
                        "it into prompt_template."
                    )
        if self.max_observation_tokens is not None:
            check_whole_number("max_observation_tokens", self.max_observation_tokens)


class TurnEncoder:
    """Turns prompts and observations into token ids. Control tokens come from the chat template only, never from data.

    Args:
        tokenizer: a tokenizer of Transformers.
        rules: the rules of the episodes.
        format: how prompts and observations are shown to the model; None: the default.

    Raises:
        ConfigError: `format.chat` is set, and the tokenizer has no chat template, or its template cannot show what the
            format asks for.
    """

    # Any: tokenizers of Transformers have no common type without importing it
    def __init__(self, tokenizer: Any, rules: Rules, format: PromptFormat | None = None) -> None:
        self.format = PromptFormat() if format is None else format
        self._tokenizer = tokenizer
        self._rules = rules
        self._stops = rules.protocol.stop_strings
        self._template: ChatTemplate | None = None
        self._instruction: tuple[str, ...] | None = None
        if self.format.chat:
            protocol, own = rules.protocol, self.format
            # The prompt of a row says itself what the model may call.
            described = protocol if own.tools and not rules.dataset_prompts else None
            self._template = read_chat_template(tokenizer, described, own.system, own.thinking, own.prefill)
            default = rules.prompt_template == protocol.prompt_template
            if default and self._template.describes_tools and protocol.tool_prompt_template is not None:
                self._instruction = rules.pieces_of(protocol.tool_prompt_template)

    def prompts(self, episodes: Sequence[Episode]) -> list[list[int]]:
        """Token ids of the prompts of episodes. The instruction may contain control tokens, a question none.

        Raises:
            ConfigError: the chat template refuses a prompt.
        """
        questions = [episode.question.text for episode in episodes]
        texts = [episode.prompt for episode in episodes]
        if self._template is None:
            return encode_prompts(texts, self._tokenizer, questions=questions)
        if self._instruction is not None:
            texts = [question.join(self._instruction) for question in questions]
        if self._rules.dataset_prompts:
            chats = [self._with_system(episode.messages) for episode in episodes]
        else:
            chats = [self._template.first_messages(text) for text in texts]
        options = self._template.options
        return encode_chats(chats, self._tokenizer, questions=questions, prefill=self.format.prefill, **options)

    def _with_system(self, messages: Sequence[JsonObject]) -> list[JsonObject]:
        """The messages of a row's own prompt, after the format's system message if they have none."""
        system = self.format.system
        if system is None or messages[0]["role"] == "system":
            return list(messages)
        return [{"role": "system", "content": system}, *messages]

    @property
    def end_id(self) -> int | None:
        """The token with which a model ends its turn; None: its tokenizer has none.

        That is the tokenizer's end-of-sequence token or, if the chat template writes another one after a turn of the
        assistant (`<end_of_turn>`, `<|eot_id|>`), that one.
        """
        end: int | None = self._tokenizer.eos_token_id
        written = None if self._template is None else self._template.turn_end(self._tokenizer)
        return end if written is None else written

    def opening(self, step: Step | None = None, end: int | None = None) -> str:
        """The part of the policy's next turn that its context already holds, such as a prefilled `<think>`.

        It belongs to the text of that turn: a draft of an action in a thought that is cut off must not act.

        Args:
            step: the step before the turn; None: the first turn.
            end: see `observations`.
        """
        template = self._template
        new = step is None or end is not None or bool(step.messages)
        return template.opening if template is not None and new else ""

    def observations(self, steps: Sequence[Step], turns: Sequence[tuple[str, int | None]]) -> list[list[int]]:
        """Token ids of what is appended to the context after each step.

        Args:
            steps: steps that do not end their episodes.
            turns: for each step the policy's text of the turn, and the end-of-sequence token with which the model ended
                it (None: a stop string or a limit ended it).

        Raises:
            ConfigError: the chat template cannot show an observation.
        """
        template, tokenizer = self._template, self._tokenizer
        rows: list[tuple[Frame, Sequence[str]]] = []
        sampled = [0] * len(steps)  # ids at the start of the frame that the model has sampled itself
        for number, (step, (text, end)) in enumerate(zip(steps, turns, strict=True)):
            if template is None or (end is None and not step.messages):
                rows.append((BARE, (without_doubled_newlines(step.observation, text, self._stops),)))
                continue
            messages = step.messages
            if messages and not self.format.tools:  # as ReCall, whose prompt describes the tools as well
                messages = (("user", step.observation.removeprefix("\n")),)
            frame, contents = template.framed(messages, step.observation, tokenizer)
            rows.append((frame, contents))
            if end is not None:
                sampled[number] = template.sampled_ids(frame, end)
        encoded = encode_framed(rows, tokenizer, limit=self.format.max_observation_tokens)
        for ids, count in zip(encoded, sampled, strict=True):
            del ids[:count]
        return encoded


def without_doubled_newlines(observation: str, text: str, stop_strings: tuple[str, ...]) -> str:
    r"""Remove the newlines at the start of an observation that the policy's turn has brought already.

    A token such as `>\n\n` completes a stop string and goes on. The turn keeps it, because trained tokens are the
    sampled ones, and the observation's own newlines would double it.

    Args:
        observation: the observation after the turn.
        text: the policy's text of the turn.
        stop_strings: the strings that end a turn.
    """
    if not observation.startswith("\n") or not text.endswith("\n"):
        return observation
    stripped = text.rstrip("\n")
    if not stripped.endswith(stop_strings):
        return observation
    return observation[min(len(text) - len(stripped), len(observation) - len(observation.lstrip("\n"))) :]
