"""The detector: does a text state a gold answer?

One rule serves the leak guards of all engines, `check_engine`, the labels of the simulator's training data, and
`answer_in_documents`. It reads the text as a policy would. Too strict is cheap: another noisy document is drawn. So a
gold answer counts as stated if either reading finds its words in order, without articles, on word boundaries:

    text                        split at every mark             marks deleted (SQuAD's rule)
    "the Paris-based firm"      the paris based firm            the parisbased firm
    "Bram Stoker's novel"       bram stoker s novel             bram stokers novel
    "Zür-ich"                   zur ich                         zurich

Both readings fold accents, case, full-width letters, dashes and quotation marks, and drop invisible characters. Markup
(`<b>`, `&uuml;`) is read with and without. Special rules:

* scripts without blanks (Chinese, Japanese, Thai, ...), and scripts that attach particles to words (Korean, Arabic,
  Hebrew): the answer may be anywhere in the text, also inside a longer word;
* a single ASCII letter ("C") must be alone, in the case of the gold answer;
* an answer that is only an article ("The") must fill the whole text: it cannot be told from the article;
* an answer without letters and digits ("!!!") must have white space on both sides;
* yes and no are words like any other.
"""

from __future__ import annotations

import codecs
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..types import Document, Paragraph, full_text
from .folding import UNSPACED, WORD, fold, without_accents

_SEPARATOR = b" qzxnextdocumentqzx "
"""Separates documents that are examined together: a word that no answer contains."""
_MAX_CACHED = 16384
"""Maximum number of questions whose prepared gold answers are kept."""

_ARTICLES = frozenset(("a", "an", "the"))
_SKIPPED = frozenset((b"a", b"an", b"the"))
_SUPERSCRIPTS = r"\u00b2\u00b3\u00b9\u2070\u2074-\u2079"
_SUPERSCRIPT = re.compile(f"[{_SUPERSCRIPTS}]")
_BETWEEN = 64
"""Maximum number of articles' letters and of blanks between the words of an answer, over one between each two."""
_LETTER = re.compile("[a-z]")
_WITHOUT_MARKS = dict.fromkeys(map(ord, string.punctuation))
_TAG, _ENTITY = b"<&"
"""Bytes that begin markup."""
_MARKUP = re.compile(r"</?[A-Za-z][^<>]{0,200}>|<!--.{0,200}?-->")
_ATTACHED = re.compile(
    rf"[{UNSPACED}\u0590-\u05ff\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff]"
)
"""A character of a script in which an answer is found inside longer words."""


def _fold(text: str) -> str:
    # Superscript digits are footnote marks more often than powers: "Paris¹" states Paris.
    return without_accents(fold(_SUPERSCRIPT.sub(" ", text)))


def _ascii(text: str) -> str:
    """Folded text in ASCII: characters without an ASCII form become blanks."""
    return "".join(c if c.isascii() else " " for c in _fold(text))


# The fast path: gold answers in ASCII letters (after folding), which are nearly all answers of English data sets. A
# text becomes one byte per character (Latin-1), and a table folds the bytes: both run in C. Runs of other characters
# reach the error handler, which remembers what short ones fold to.
class _Runs(dict[str, bytes]):
    def __missing__(self, run: str) -> bytes:
        folded = _ascii(run).encode()
        if len(run) <= 8 and len(self) < 16384:
            self[run] = folded
        return folded


_RUNS = _Runs()


def _encode_run(error: UnicodeEncodeError) -> tuple[bytes, int]:
    end = error.end
    return _RUNS[error.object[error.start : end]], end


_HANDLER = "zerosearch-fold"
codecs.register_error(_HANDLER, _encode_run)  # type: ignore[arg-type]  # it is for encoding only
_EXPANDED = [(bytes((code,)), folded.encode()) for code in range(128, 256) if len(folded := _ascii(chr(code))) != 1]
"""Characters of Latin-1 that fold to several characters or to none: \u00df, \u00e6, the soft hyphen."""
_RARE = 1
"""In a reading: a character of `_EXPANDED`. One look tells that a text holds none of them."""


def _tables() -> tuple[bytes, bytes, bytes]:
    """The two readings: a table each, and the bytes that the second one deletes."""
    split, joined, deleted = bytearray(b" " * 256), bytearray(b" " * 256), bytearray()
    for code in range(256):
        folded = _ascii(chr(code))
        if len(folded) != 1:
            joined[code] = _RARE
        elif folded.isalnum():
            split[code] = joined[code] = ord(folded)
        elif folded in string.punctuation:
            deleted.append(code)
    return bytes(split), bytes(joined), bytes(deleted)


_SPLIT, _JOINED, _DELETED = _tables()


def _encode(text: str) -> bytes:
    # Half of the characters outside Latin-1 in English Wikipedia are en dashes: replacing them first halves the time.
    return text.encode() if text.isascii() else text.replace("\u2013", "-").encode("latin-1", _HANDLER)


@dataclass(frozen=True, slots=True)
class _Gold:
    """A gold answer as words (UTF-8, a blank on both sides); they are looked for in the two readings of a text."""

    split: tuple[bytes, ...]
    joined: tuple[bytes, ...]
    probe: bytes
    """Its longest word. Deleting marks never breaks a word, so a text without the probe does not state the answer."""


@dataclass(frozen=True, slots=True)
class _Golds:
    latin: tuple[_Gold, ...]
    """Answers in ASCII letters and digits, for the fast path."""
    probes: tuple[bytes, ...]
    """Their probes: a text without them states none of these answers."""
    others: tuple[_Gold, ...]
    attached: tuple[str, ...]
    """Answers that may be inside words: their letters, without marks and blanks."""
    literal: re.Pattern[str] | None
    """Single letters, articles and marks."""
    special: bool
    """Whether there are others than `latin`."""


def _words(folded: str) -> tuple[str, ...]:
    """The words of an answer without articles, unless too little would be left, as in "N/A"."""
    words = tuple(WORD.findall(folded))
    bare = tuple(word for word in words if word not in _ARTICLES)
    return words if len(words) > 1 and len("".join(bare)) < 2 else bare


def _literal(answer: str, folded: str) -> str:
    if WORD.search(folded):  # an article
        return rf"(?i:\A\W*{re.escape(answer)}\W*\Z)"
    return rf"(?<!\S){re.escape(answer)}(?!\S)"


class _Cache(dict[tuple[str, ...], _Golds]):
    """Prepared gold answers. `functools.lru_cache` takes more than twice as long for each look-up."""

    def __missing__(self, answers: tuple[str, ...]) -> _Golds:
        if len(self) >= _MAX_CACHED:
            self.clear()
        golds = self[answers] = _prepare(answers)
        return golds


_GOLDS = _Cache()


def _prepare(answers: tuple[str, ...]) -> _Golds:
    latin: list[_Gold] = []
    others: list[_Gold] = []
    attached: list[str] = []
    literal: list[str] = []
    for answer in dict.fromkeys(filter(None, map(str.strip, answers))):
        folded = _fold(answer)
        split = _words(folded)
        if not split:
            literal.append(_literal(answer, folded))
        elif len(split) == 1 and _LETTER.fullmatch(split[0]):
            letter = next((c for c in answer if c.isalnum()), split[0])
            literal.append(rf"(?<![^\W_])(?<!['\u2019]){letter}(?!['\u2019]?[^\W_{_SUPERSCRIPTS}])")
        elif any(map(_ATTACHED.search, split)):
            attached.append(_letters(WORD.findall(folded)))
        else:
            # "T.H.E." would be read as an article.
            joined = _words(folded.translate(_WITHOUT_MARKS)) or split
            gold = _Gold(_padded(split), _padded(joined), max(split, key=len).encode())
            (latin if "".join(split).isascii() else others).append(gold)
    pattern = re.compile("|".join(literal)) if literal else None
    return _Golds(
        tuple(latin),
        _shortest(gold.probe for gold in latin),
        tuple(others),
        tuple(attached),
        pattern,
        bool(others or attached or literal),
    )


def _shortest(probes: Iterable[bytes]) -> tuple[bytes, ...]:
    """The probes that hold no other probe."""
    shortest: list[bytes] = []
    for probe in sorted(set(probes), key=len):
        if not any(shorter in probe for shorter in shortest):
            shortest.append(probe)
    return tuple(shortest)


def _letters(words: Sequence[str]) -> str:
    return "".join(word for word in words if word not in _ARTICLES)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _padded(words: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(_utf8(f" {word} ") for word in words)


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether `text` states one of the gold answers; the module's docstring has the rules.

    Args:
        text: title and text of a document, or any other text.
        answers: the gold answers.

    Raises:
        ConfigError: `answers` is a single string.
    """
    golds = _GOLDS[answers if type(answers) is tuple else _checked(answers)]
    stated = _states(_encode(text), golds)
    return _states_otherwise(text, golds) if stated is None else stated


def documents_contain_answer(documents: Sequence[Document | Paragraph], answers: Sequence[str]) -> bool:
    """Whether one of the documents states a gold answer in its title or text, or from the one into the other.

    The same as `contains_answer` of each document's full text, at a lower cost for documents of a search together.

    Raises:
        ConfigError: `answers` is a single string.
    """
    golds = _GOLDS[answers if type(answers) is tuple else _checked(answers)]
    texts = [_encode(f"{document.title} {document.text}") for document in documents]
    stated = _states(_SEPARATOR.join(texts), golds)
    if stated is not None:
        return stated
    return any(_states_otherwise(full_text(document), golds) for document in documents)


def _checked(answers: Sequence[str]) -> tuple[str, ...]:
    if isinstance(answers, str):
        raise ConfigError(f"gold answers must be a sequence of strings, got one string {answers!r}. Put it in a tuple.")
    return tuple(answers)


def without_markup(text: str) -> str:
    """`text` without HTML tags and comments, and with its entities (`&amp;`) replaced by characters."""
    import html  # when it is used: its table of entities takes longer than this module

    return html.unescape(_MARKUP.sub("", text))


def _states(raw: bytes, golds: _Golds) -> bool | None:
    """Whether an encoded text states an answer; None if that also depends on `_states_otherwise`."""
    # `find`, and `in` with a number: `bytes in bytes` first raises and drops a TypeError, which takes as long as the
    # search itself.
    joined = raw.translate(_JOINED, _DELETED)
    if _RARE in joined:
        for character, folded in _EXPANDED:
            raw = raw.replace(character, folded)
        joined = raw.translate(_JOINED, _DELETED)
    for probe in golds.probes:
        if joined.find(probe) >= 0:
            second, first = b" %b " % joined, b" %b " % raw.translate(_SPLIT)
            if any(_in_a_row(gold.joined, second) or _in_a_row(gold.split, first) for gold in golds.latin):
                return True
            break
    return None if golds.special or _TAG in raw or _ENTITY in raw else False


def _states_otherwise(text: str, golds: _Golds) -> bool:
    """Whether a text states an answer by the special rules, or without its markup."""
    if golds.special and _states_special(text, golds):
        return True
    plain = without_markup(text) if "<" in text or "&" in text else text
    return plain != text and bool(_states(_encode(plain), golds) or (golds.special and _states_special(plain, golds)))


def _states_special(text: str, golds: _Golds) -> bool:
    if (golds.others or golds.attached) and not text.isascii():
        folded = _fold(text)
        words = WORD.findall(folded)
        if golds.others:
            first = _utf8(f" {' '.join(words)} ")
            second = _utf8(f" {' '.join(WORD.findall(folded.translate(_WITHOUT_MARKS)))} ")
            if any(_in_a_row(gold.split, first) or _in_a_row(gold.joined, second) for gold in golds.others):
                return True
        letters = _letters(words)
        if any(answer in letters for answer in golds.attached):
            return True
    return golds.literal is not None and golds.literal.search(text) is not None


def _in_a_row(words: tuple[bytes, ...], reading: bytes) -> bool:
    """Whether `words` are in a row in a reading, in which only blanks separate words. Articles between are skipped."""
    for word in words:
        if reading.find(word) < 0:
            return False
    if len(words) == 1:
        return True
    reach = sum(map(len, words)) + _BETWEEN
    bare = [word.strip() for word in words]
    start = reading.find(words[0])
    while start >= 0:
        near = reading[start : start + reach].split()
        if start + reach < len(reading):
            near.pop()  # it may be the beginning of a longer word
        if [word for word in near if word not in _SKIPPED or word in bare][: len(bare)] == bare:
            return True
        start = reading.find(words[0], start + 1)
    return False


def answer_spans(text: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Where `text` states gold answers: (start, end) in characters, in order, overlapping spans merged.

    Follows the rules of `contains_answer`, except that it does not look through markup. Slower: for removing answers.
    """
    golds = _GOLDS[tuple(answers)]
    spans = [] if golds.literal is None else [match.span() for match in golds.literal.finditer(text)]
    split, joined, letters = _Reading(), _Reading(), _Reading()
    for place, character in enumerate(text):
        for folded in _fold(character):
            word = WORD.fullmatch(folded)
            split.add(folded if word else " ", place)
            if word or folded not in string.punctuation:
                joined.add(folded if word else " ", place)
            if word:
                letters.add(folded, place)
    for gold in (*golds.latin, *golds.others):
        spans += [*split.find(_pattern(gold.split)), *joined.find(_pattern(gold.joined))]
    for answer in golds.attached:
        # A word of one letter may be an article in the text and a part of the answer: "\u4e2d a", "\u4e2da".
        spans += [span for span in letters.find(re.escape(answer)) if _states_special(text[slice(*span)], golds)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _pattern(words: tuple[bytes, ...]) -> str:
    return " " + " +(?:(?:a|an|the) +)*".join(word.decode("utf-8", "surrogatepass").strip() for word in words) + "(?= )"


class _Reading:
    """A reading of a text that knows from which character each of its characters comes."""

    def __init__(self) -> None:
        self._characters: list[str] = []
        self._places: list[int] = []

    def add(self, character: str, place: int) -> None:
        self._characters.append(character)
        self._places.append(place)

    def find(self, pattern: str) -> list[tuple[int, int]]:
        text, spans = f" {''.join(self._characters)} ", []
        for match in re.finditer(pattern, text):
            start = match.start() + (match[0][0] == " ")
            spans.append((self._places[start - 1], self._places[match.end() - 2] + 1))
        return spans
