"""The rules that all episodes of an environment share, and the one place where they are checked."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from ..errors import ConfigError, unknown_name
from ..protocols import Protocol, get_protocol
from ..protocols.prompts import PLACEHOLDER, load_prompt_template
from .rewards import exact_match, get_reward

NoiseUnit = Literal["search", "document"]


@dataclass(frozen=True)
class Rules:
    """What all episodes of an environment share. Make it with `make_rules`, which checks every value."""

    protocol: Protocol
    prompt_template: str
    """The instruction; contains `{question}`."""
    max_turns: int = 5
    """Turns that may search; invalid turns count. One last turn that may only answer follows them."""
    top_k: int = 5
    """Documents a search."""
    reward: Callable[[str | None, Sequence[str]], float] = exact_match
    """(prediction or None, gold answers) to a finite number; paid once, at the end."""
    noise_unit: NoiseUnit = "search"
    """What one draw decides: a whole search (the paper) or each document."""
    max_action_chars: int = 65_536
    """Longer texts of one turn end the episode (`TOO_LONG`)."""
    max_query_chars: int = 512
    """Longer queries are cut."""

    @cached_property
    def prompt_pieces(self) -> tuple[str, ...]:
        """The instruction cut at every `{question}`: `question.join(prompt_pieces)` is the prompt.

        Nothing is formatted: every other brace of the instruction, and each one of the question, is ordinary text.
        """
        return tuple(self.prompt_template.split(PLACEHOLDER))


def make_rules(
    *,
    protocol: str | Protocol = "zerosearch",
    prompt_template: str | os.PathLike[str] | None = None,
    max_turns: int | None = None,
    top_k: int | None = None,
    reward: str | Callable[[str | None, Sequence[str]], float] = "em",
    noise_unit: str = "search",
    max_action_chars: int = 65_536,
    max_query_chars: int = 512,
) -> Rules:
    """Check every value and put the rules together.

    Args:
        protocol: a registered name or a `Protocol`.
        prompt_template: text or file with `{question}`; None is the protocol's own.
        max_turns: turns that may search, 1 or more; None is the protocol's own.
        top_k: documents a search, 1 or more; None is the protocol's own.
        reward: `"em"`, `"f1"`, `"subem"`, or a callable (prediction or None, answers) -> finite number.
        noise_unit: `"search"` or `"document"`.
        max_action_chars: longest accepted text of one turn, in characters.
        max_query_chars: where queries are cut, in characters.

    Raises:
        ConfigError: for a value that cannot be used; names the nearest valid one where there is one.
    """
    chosen = get_protocol(protocol)
    if noise_unit not in get_args(NoiseUnit):
        raise unknown_name("noise_unit", noise_unit, get_args(NoiseUnit))
    template = load_prompt_template(chosen.prompt_template if prompt_template is None else prompt_template)
    return Rules(
        protocol=chosen,
        prompt_template=template,
        max_turns=_positive("max_turns", chosen.max_turns if max_turns is None else max_turns),
        top_k=_positive("top_k", chosen.top_k if top_k is None else top_k),
        reward=get_reward(reward),
        noise_unit=noise_unit,  # type: ignore[arg-type]
        max_action_chars=_positive("max_action_chars", max_action_chars),
        max_query_chars=_positive("max_query_chars", max_query_chars),
    )


def _positive(name: str, value: Any) -> int:
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return int(number)
