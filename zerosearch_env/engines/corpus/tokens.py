"""Words of a text, for lexical search: the same for passages and queries, in every script.

Case, accents and punctuation do not count ("Besançon" is found by "BESANCON"); a possessive 's is dropped; underscores
separate words. Scripts written without spaces (Han, kana, Thai, ...) give one token a character, which BM25 turns into
a bag of characters: crude, and far better than one token a sentence. There is no stop list and no stemmer: both
belong to one language, titles such as "The Who" consist of stop words, and rare words outweigh frequent ones anyhow.
"""

from __future__ import annotations

import re
import unicodedata

_SPACELESS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Han
)
# vowel signs and points, which Python's \w leaves out: they stand inside words
_MARKS = r"\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"
_ASCII_WORDS = re.compile(r"[0-9a-z]+").findall
_WORDS = re.compile(rf"[{_SPACELESS}]|(?:[^\W_{_SPACELESS}]|[{_MARKS}])+").findall
_POSSESSIVE = re.compile(r"['\u2019]s(?![^\W_])", re.IGNORECASE)
_ACCENTS = re.compile(r"[\u0300-\u036f]+")


def words(text: str) -> list[str]:
    """The tokens of a text, in order, repeated ones included; empty for a text without letters and digits."""
    if text.isascii():
        text = text.lower()
        return _ASCII_WORDS(_POSSESSIVE.sub("", text) if "'s" in text else text)
    # Folding after decomposing finds "ß" as "ss" and full-width letters as plain ones; only the accents of Latin,
    # Greek and Cyrillic are dropped, since in other scripts a combining mark is part of the word.
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).casefold()
    return _WORDS(unicodedata.normalize("NFC", _POSSESSIVE.sub("", text)))
