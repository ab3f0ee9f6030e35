"""Short answers in what a model wrote: where they are, where they end, and which of them are the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from zerosearch_env.game.rewards import answer_key
from zerosearch_env.protocols.tags import THINK, THINK_END, last_boxed

_MAX_WORDS = 5
"""Words of a line that may be one answer with a full stop in it."""

# "So the final answer is:", "Answer:" before an answer
_LABEL = re.compile(
    r"[\s*_#>]*(?:(?:so|thus|hence|therefore),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|short|correct)\s+)?"
    r"answer(?:\s+to (?:this|the) question)?(?:\s+is\b\s*[:\uff1a]?|\s*[:\uff1a])[\s*_]*",
    re.IGNORECASE,
)
# The beginning of a line with the answer, or of "So the answer is"
_CONCLUSION = re.compile(
    r"(?:^[\s*_#>]*(?:(?:the|my)\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:\uff1a]"
    r"|\b(?:so|thus|hence|therefore),?\s+the\s+(?:final\s+)?answer\s+is\b)",
    re.IGNORECASE | re.MULTILINE,
)
# A full stop after two small letters, two digits or a bracket; not after an initial or "Dr."
_SENTENCE_END = re.compile(r"(?<=[^\W\dA-Z_][^\W\dA-Z_]|\d\d|.[)\]])[.!?](?=[\"'\u201d\u2019)]?\s)")
_FULL_STOP = re.compile(r"[\u3002\uff01\uff1f\u0964\u06d4]")
"""Full stops of scripts in which they end nothing but sentences."""

_ABSTENTIONS = frozenset({"unknown", "no answer", "not known", "not mentioned", "not stated", "not available"})
_ABSTAINING = re.compile(
    r"(?:i (?:dont|do not|cannot|cant) (?:know|answer|determine)|(?:this |provided |given )?(?:document|text|passage)"
    r"s? (?:does|do|did)(?: not|nt)|there is no (?:answer|information|mention)"
    r"|.*\b(?:is|are|was|were) (?:unknown|not (?:known|specified|mentioned|stated|given|provided|available)))\b"
)


def cut_answer(text: str) -> str:
    """The short answer that a reply begins with: its first line, after a thought and a label such as "Answer:".

    A line of more than five words ends with its first sentence. "" if there is no answer.
    """
    text = after_thought(text)
    if label := _LABEL.match(text):
        text = text[label.end() :]
    lines = [line for line in text.splitlines() if line.strip(" \t*_`#>")]
    if not lines:
        return ""
    line = _FULL_STOP.split(lines[0].strip(" \t*_`#>"), maxsplit=1)[0]
    if len(line.split()) > _MAX_WORDS and (end := _SENTENCE_END.search(line)):
        line = line[: end.start()]
    return line.strip()


def after_thought(text: str) -> str:
    """What follows a thought; "" if the thought does not end."""
    return text.rpartition(THINK_END)[2].partition(THINK)[0]


def conclusion(reasoning: str) -> str:
    r"""The answer that reasoning ends with: its last `\boxed{}`, or what follows its last "Answer:"; "" if neither."""
    reasoning = after_thought(reasoning)
    boxed = last_boxed(reasoning)
    if boxed:
        return cut_answer(boxed)
    found = list(_CONCLUSION.finditer(reasoning))
    return cut_answer(reasoning[found[-1].end() :]) if found else ""


def abstains(answer: str) -> bool:
    """Whether a reply says that there is no answer, or says nothing."""
    key = answer_key(answer)
    return not key or key in _ABSTENTIONS or _ABSTAINING.match(key) is not None


def majority(answers: Iterable[str]) -> str:
    """The answer that was given most often, and of those given equally often the one that came first.

    Answers are the same if exact match cannot tell them apart; the first spelling is returned. Abstentions do not
    count. "" if nothing counts.
    """
    counted = [answer for answer in answers if not abstains(answer)]
    votes = Counter(map(answer_key, counted))
    # `max` and `Counter` keep the order in which answers came.
    return max(counted, key=lambda answer: votes[answer_key(answer)], default="")
