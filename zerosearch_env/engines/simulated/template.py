"""A user's own prompt, for a simulation LLM that was tuned with another text than those of `prompts.py`.

    Write {count} {kind} documents for a reader who asks "{question}" ({answers}).
    Query: {query}

Each placeholder is replaced by its value, once; any other text in braces stays as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigError, suggestion
from ...files import read_utf8
from ...identity import text_hash
from .prompts import NO_WORDS, STYLES, UNKNOWN

_PLACEHOLDER = re.compile(r"\{(kind|question|answers?|query|count)\}")
_QUERY, _KIND = "{query}", "{kind}"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt format that the user gives; it has what `PromptStyle` has."""

    useful: str
    noisy: str
    """The same text as `useful`, or another one. If it contains the answers, a noisy prompt states them too."""
    terse: bool = False
    stop: tuple[str, ...] = ()
    """No stop strings: the text has no sections that this package knows."""

    @property
    def id(self) -> str:
        """Name of the format by its content, for the keys of cached results."""
        return f"template-{text_hash(self.useful)}-{text_hash(self.noisy)}"

    def render(
        self,
        *,
        noisy: bool,
        question: str,
        answers: Sequence[str],
        query: str,
        count: int,
        steps: Sequence[str] = (),
        noise_kind: str = "",
    ) -> str:
        """Render the prompt for one set of documents; see `PromptStyle.render`. Steps and kinds are not used."""
        values = {
            "kind": "noisy" if noisy else "useful",
            "question": question or UNKNOWN,
            "answers": " | ".join(answers) or UNKNOWN,
            "answer": answers[0] if answers else UNKNOWN,
            "query": query or NO_WORDS,
            "count": str(count),
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.noisy if noisy else self.useful)


def read_template(value: str, option: str) -> str:
    """Return the text of a template: the value itself, or the content of the file that it names.

    Args:
        value: a text that contains `{query}`, or the path of a UTF-8 file that does.
        option: name of the option, for messages.

    Raises:
        ConfigError: it is neither, or the file cannot be read.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{option} must be a string, got {value!r:.200}")
    if _QUERY in value:
        return value
    if not os.path.isfile(value):
        shown = value if len(value) <= _SHOWN else f"{value[: _SHOWN - 3]}..."
        raise ConfigError(
            f"unknown {option} {shown!r}.{suggestion(value, STYLES)} Expected one of {', '.join(map(repr, STYLES))}, "
            f"a text that contains {_QUERY}, or a file with such a text."
        )
    text = read_utf8(value, f"{option}: the file {value!r}")
    if _QUERY not in text:
        raise ConfigError(f"{option}: the file {value!r} does not contain {_QUERY}; put it where the query belongs")
    return text


def check_kinds(prompt: str, noisy_prompt: str | None) -> None:
    """Check that templates tell useful from noisy.

    Raises:
        ConfigError: there is only one template, and it does not contain `{kind}`.
    """
    if noisy_prompt is None and _KIND not in prompt:
        raise ConfigError(
            f"the prompt does not contain {_KIND}, so useful and noisy documents would be requested with the same "
            f"words: put {_KIND} where the word 'useful' or 'noisy' belongs, or give a second text as noisy_prompt"
        )
