"""What a simulation LLM writes in place of a document: refusals, chat, repetitions, fragments, echoes of its prompt.

`rejection` is the only judge of a document. It looks at the form alone, and never at whether a document is true.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..corpus.tokens import words
from .prompts import PromptStyle
from .template import PromptTemplate

Rejection = Literal["refusal", "chat", "looping", "fragment", "echo"]

MIN_WORDS = 5
"""A document with fewer words is a fragment. In scripts without blanks every character counts as a word."""

_RUN = 5
_ECHOED = 0.5

# Only the first letter may be of either case: "I Can't Help Myself" is a title, "I can't help you" a refusal. What
# follows "I cannot" tells a refusal from the words of a song.
_I_AM = r"[Ii](?: am|['\u2019]m)"
_REFUSAL = re.compile(
    rf"{_I_AM} (?:(?:very|so|really|truly) )?sorry(?:[,.!]|,? (?:but|that|for|I|i)\b|$)"
    rf"|{_I_AM} (?:afraid (?:that|I|i)\b|(?:unable|not able|not allowed|not programmed) to\b)"
    r"|[Ss]orry[,.!]?(?: (?:but|[Ii]['\u2019]m|[Ii] (?:am|can|do|could|won|will)|there (?:is|are)|no \w+ found)|$)"
    r"|(?:[Mm]y|[Oo]ur) apologies[,.!]|[Ii](?: do| must)? apologi[sz]e\b|[Ii] must decline\b"
    r"|[Ii] (?:can(?:no|['\u2019])t|can not|could(?:n['\u2019]t| not)|won['\u2019]t|will not) "
    r"(?:be able to )?(?:\w+ly )?"
    r"(?:help(?: you| with|[.,!]|$)|assist|provide|fulfil|generate|create|write|produce|comply|answer|access|browse|"
    r"engage in|discuss|support|do (?:that|this))"
    r"|[Ii] do(?:n['\u2019]t| not) (?:have|know|possess) (?:\w+ ){0,3}"
    r"(?:access|information|abilit|capabilit|knowledge|data|documents?|answers?|context|details|opinions)"
    r"|(?:[Aa]s|[Ii] am|[Ii]['\u2019]m)(?: just| only)? an? "
    r"(?:AI|ai|artificial|[Ll]arge [Ll]anguage|[Ll]anguage [Mm]odel)\b"
)
_CHAT = re.compile(
    r"[Ii] (?:really |do )?hope (?:this|that|these|it|you)\b[^.!?]{0,60}"
    r"\b(?:help|useful|meet|answer|satisf|clear|clarif)"
    r"|[Ii](?:['\u2019](?:m|d|ll)| am| would| will) (?:be )?(?:\w+ )?(?:ready|happy|glad|delighted|pleased|here) to \w+"
    r"|[Ii](?:['\u2019]ll| will| can) (?:now |gladly |do my best to |try to )?"
    r"(?:(?:help|assist) you|(?:provide|generate|write) (?:you|the|some|\w+ (?:useful|noisy|documents)))\b"
    r"|(?:[Pp]lease )?[Ll]et me know (?:if|whether|what|how|which|when)\b"
    r"|(?:[Pp]lease )?[Ff]eel free to (?:ask|let me|contact|reach|provide|modify|adjust)\b"
    r"|[Pp]lease (?:provide|give|tell|send) "
    r"(?:me|us|the (?:query|question|documents?|answers?)|a query|more (?:info|con))"
    r"|(?:[Ss]ure|[Cc]ertainly|[Oo]f course|[Aa]bsolutely|[Oo]kay|OK|[Gg]ot it)[!,.:]+"
    r"(?: (?:[Hh]ere|[Ii]['\u2019]|[Ll]et)|$)"
    r"|[Hh]ere (?:is|are) (?:the |an? |some |your |\d+ |one |two |three |four |five |ten )(?:\w+ ){0,3}"
    r"(?:documents?|passages?|snippets?|search results?)\b[^.!?]{0,80}[.:!]?$"
    r"|[Ii]s there anything else\b|[Hh]ow (?:can|may) I (?:help|assist)\b|[Ww]ould you like (?:me to|to know more)\b"
    r"|[Dd]o you (?:have|need) any (?:other|more|further)\b"
    r"|(?:[Tt]hanks|[Tt]hank you) for (?:your (?:question|query|request)|asking|providing)\b"
)
_QUOTED = re.compile(r"[\"\u201c']+([^\"\u201d]*)[\"\u201d']+[.!]?")


@dataclass(frozen=True, slots=True)
class PromptWords:
    """The words of a prompt, by which its echoes are recognised."""

    text: str = ""
    """All words of the prompt, with blanks between them and around them."""
    fixed: frozenset[tuple[str, ...]] = frozenset()
    """Runs of five words of what is the same for every search: the instruction and the examples."""


NO_PROMPT = PromptWords()


def prompt_words(
    text: str, style: PromptStyle | PromptTemplate, *, noisy: bool, count: int, noise_kind: str = ""
) -> PromptWords:
    """The words of a prompt.

    Args:
        text: the prompt.
        style: its format.
        noisy: whether it requests noisy documents.
        count: number of documents that it requests.
        noise_kind: as in `PromptStyle.render`.
    """
    return PromptWords(f" {' '.join(words(text))} ", _fixed(style, noisy, count, noise_kind))


@lru_cache(maxsize=256)
def _fixed(style: PromptStyle | PromptTemplate, noisy: bool, count: int, noise_kind: str) -> frozenset[tuple[str, ...]]:
    text = style.render(noisy=noisy, question="", answers=(), query="", count=count, noise_kind=noise_kind)
    return frozenset(_runs(words(text)))


def _runs(found: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(found[start:] for start in range(_RUN)), strict=False))


def rejection(text: str, seen: Collection[str], prompt: PromptWords, min_words: int = MIN_WORDS) -> Rejection | None:
    """Why a text is not a document; None if it is one.

    - `"refusal"` and `"chat"`: see `is_refusal` and `is_chat`.
    - `"looping"`: it repeats itself or an earlier document.
    - `"fragment"`: it has fewer than `min_words` words.
    - `"echo"`: it is, word for word, a passage of the prompt, or at least half of its runs of five words are those of
      the instruction and the examples.

    Args:
        text: the text on one line.
        seen: the earlier documents of the set, as `text_key` gives them.
        prompt: the words of the prompt.
        min_words: minimum number of words.
    """
    if is_refusal(text):
        return "refusal"
    if is_chat(text):
        return "chat"
    key = text_key(text)
    if key in seen or _loops(key):
        return "looping"
    found = words(text)
    if len(found) < min_words:
        return "fragment"
    runs = _runs(found)
    echoed = sum(run in prompt.fixed for run in runs)
    if f" {' '.join(found)} " in prompt.text or (echoed and echoed >= _ECHOED * len(runs)):
        return "echo"
    return None


def is_refusal(text: str) -> bool:
    """Whether a text begins by refusing, as in "I'm sorry, but I can't help with that".

    A text that begins with a title (`"I Can't See Myself Leaving You" is a song`) does not.
    """
    return _REFUSAL.match(_bare(text)) is not None


def is_chat(text: str) -> bool:
    """Whether a text begins by speaking to the user, as assistants do: "I hope this helps", "I'm ready to help"."""
    return _CHAT.match(_bare(text)) is not None


def _bare(text: str) -> str:
    """The text without stars, and without quotation marks if they enclose all of it."""
    text = text.replace("*", "").strip()
    quoted = _QUOTED.fullmatch(text)
    return text if quoted is None else quoted[1].strip()


def text_key(text: str) -> str:
    """Key under which two documents of a set count as equal: case and white space are ignored."""
    return " ".join(text.casefold().split())


def _loops(text: str) -> bool:
    """Whether a text repeats itself: fewer than half of its runs of four words are distinct.

    Texts without spaces are compared in runs of eight characters.
    """
    units: list[str] | str = text.split()
    size = 4
    if len(units) < 24:
        if len(units) > 8 or len(text) < 96:
            return False
        units, size = text, 8
    runs = [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]
    return len(set(runs)) < 0.5 * len(runs)
