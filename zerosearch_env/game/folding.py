"""Unicode folding: one spelling for characters that a reader takes for the same.

`fold` removes differences of form (full-width letters, composed or decomposed accents, kinds of dashes and quotation
marks, invisible characters, upper case). `without_accents` goes further: "Zürich" and "Zurich" become equal. Scores use
the first, because accents tell words apart; the answer detector uses both, because a reader would recognise the answer.
"""

from __future__ import annotations

import re
import unicodedata

_DASHES = re.compile(r"[\u2010-\u2015\u2043\u2212\ufe58\ufe63]")
_QUOTES = re.compile(r"[`\u00b4\u00ab\u00bb\u02b9-\u02bf\u02c8\u02ca\u02cb\u2018-\u201f\u2032-\u2037\u2039\u203a]")
# Soft hyphen, zero-width space and joiners, direction marks, byte-order mark, variation selectors, tag characters.
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    r"\U000e0000-\U000e01ef]+"
)
_DIGIT = re.compile(r"(?![0-9])\d")
# Combining accents of Latin, Greek and Cyrillic; vowel signs of Hebrew and Arabic, which are usually not written, and
# the Arabic lengthening stroke. Vowel signs of Thai or Hindi and the voicing marks of kana are part of the word.
_ACCENTS = re.compile(
    r"[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    r"\u06d6-\u06dc\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
# Letters that are written without their mark too, and that Unicode does not decompose.
_PLAIN = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ŧ": "t",
        "\u0131": "i",
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        "ŋ": "n",
    }
)
_UNDECOMPOSED = re.compile("[øłđðħŧıæœþŋ]")

# Vowel signs that are part of a word (Indic, Thai, Lao, Tibetan, Burmese, Khmer scripts; voicing marks of kana),
# without the Indic full stops.
MARKS = (
    r"\u0900-\u0963\u0966-\u0dff\u0e30-\u0e3a\u0e40-\u0e4e\u0eb0-\u0ebc\u0ec8-\u0ecd\u0f18\u0f19\u0f35\u0f37\u0f39"
    r"\u0f71-\u0f84\u102b-\u103e\u1056-\u109d\u17b4-\u17d3\u3099\u309a"
)
"""Ranges of a character class: marks that are part of a word although `\\w` does not match them."""

WORD = re.compile(rf"(?:[^\W_]|[{MARKS}])+")
"""One word of folded text: letters, digits and their marks, without the underscore."""

UNSPACED = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30fa\u30fc-\u312f\u31a0-\u31ff\u3400-\u9fff"
    r"\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Ranges of a character class: scripts written without blanks (Han, kana, Thai, Lao, Tibetan, Burmese, Khmer)."""


def fold(text: str) -> str:
    """Fold differences of form: NFKC, case, digits to 0-9, dashes to `-`, quotation marks to `'`.

    Invisible characters are removed. Takes linear time.
    """
    if text.isascii():
        return text.lower().replace('"', "'").replace("`", "'")
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    # Upper-case İ folds to i and a combining dot; casefolding can also leave letters that NFC would compose.
    text = unicodedata.normalize("NFKC", text.replace("i\u0307", "i"))
    text = _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
    return _QUOTES.sub("'", _DASHES.sub("-", text)).replace('"', "'")


def without_accents(folded: str) -> str:
    """Remove accents and optional vowel signs from folded text; `ł` becomes `l`, `æ` becomes `ae`."""
    if folded.isascii():
        return folded
    bare = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", folded)))
    return bare.translate(_PLAIN) if _UNDECOMPOSED.search(bare) else bare
