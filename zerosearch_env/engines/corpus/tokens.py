"""Tokenizer for lexical search; the same for passages and queries, in every script.

Case, accents and punctuation are ignored: "BESANCON" finds "Besançon". A possessive 's is dropped. Underscores separate
words. Scripts written without spaces (Han, kana, Thai, ...) give one token per character, so BM25 sees a bag of
characters; this is crude, but much better than one token per sentence. There is no stop word list and no stemmer: both
are specific to a language, titles such as "The Who" consist of stop words, and BM25 gives frequent words little weight
anyway.
"""

from __future__ import annotations

import re
import unicodedata

_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han
)
# Vowel signs and points are parts of words, but Python's \w does not match them.
_MARKS = r"\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_ASCII_WORDS = re.compile(r"[0-9a-z]+").findall
_WORDS = re.compile(rf"[{_SPACELESS}]|(?:[^\W_{_SPACELESS}]|[{_MARKS}])+").findall
_POSSESSIVE = re.compile(r"['\u2019]s(?![^\W_])", re.IGNORECASE)
_ACCENTS = re.compile(r"[\u0300-\u036f]+")


def words(text: str) -> list[str]:
    """Split a text into tokens, in order and with repetitions; an empty list if it has no letters or digits."""
    if text.isascii():
        return _ascii_words(text.lower())
    # Decomposing, then folding case maps "ß" to "ss" and full-width letters to plain ones. Only the accents of Latin,
    # Greek and Cyrillic are dropped: in other scripts a combining mark is part of the word.
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).casefold()
    # Most English texts are now ASCII apart from dashes and apostrophes, and the ASCII pattern is several times faster.
    plain = text.replace("\u2013", "-").replace("\u2014", "-").replace("\u2019", "'")
    if plain.isascii():
        return _ascii_words(plain)
    return _WORDS(unicodedata.normalize("NFC", _POSSESSIVE.sub("", text)))


def _ascii_words(text: str) -> list[str]:
    return _ASCII_WORDS(_POSSESSIVE.sub("", text) if "'s" in text else text)
