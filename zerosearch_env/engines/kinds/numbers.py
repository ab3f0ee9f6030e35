"""False numbers, years and dates: the same form, another value.

    14 December 1972 UTC   ->   3 May 1966 UTC
    the 1890s              ->   the 1850s
    three times            ->   seven times
    1,250                  ->   1,730

A shift is a function of the value and a seed, not of the form. So "4" and "four", and "December 1972" and "14 December
1972", remain two forms of one answer.
"""

from __future__ import annotations

import re

from ...randomness import mix, uniform

MONTHS = (
    "January February March April May June July August September October November December".split(),
    "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(),
)
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_SHORT_MONTH = r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_TOKEN = re.compile(
    rf"(?P<month>\b(?:{_MONTH}|{_SHORT_MONTH})\b)"
    r"|(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?)(?P<end>(?:st|nd|rd|th|s|%)(?!\w))?"
    rf"|\b(?P<word>{'|'.join(_WORDS[1:])})\b|\b(?P<ordinal>{'|'.join(_ORDINALS[1:])})\b",
    re.IGNORECASE,
)
_FULL_MONTH = re.compile(rf"\b{_MONTH}\b|\b{_SHORT_MONTH}\b\.?(?=\s+\d)", re.IGNORECASE)
_FIRST_WORD = re.compile(rf"(?:{'|'.join((*_WORDS[1:], *_ORDINALS[1:]))})\b")
_DAY_FIRST = re.compile(rf"(\d{{1,2}}) ({_MONTH}),? (\d{{3,4}})")
_MONTH_FIRST = re.compile(rf"({_MONTH}) (\d{{1,2}}),? (\d{{3,4}})")

LAST_YEAR = 2025
"""No false year is later than this one, unless the true one is."""


def is_numeric(answer: str) -> bool:
    """Whether an answer contains a digit, or begins with a number: "13 seasons", "two", "Apollo 11", "A55"."""
    if any("0" <= character <= "9" for character in answer) or _FIRST_WORD.match(answer) is not None:
        return True
    return _FIRST_WORD.fullmatch(answer.lower()) is not None  # "Three", but not "Three Sisters"


def is_date(answer: str) -> bool:
    """Whether an answer names a month and contains a number."""
    return _FULL_MONTH.search(answer) is not None and any(map(str.isdigit, answer))


def is_year(text: str) -> bool:
    """Whether a text consists of four digits that read as a year."""
    return len(text) == 4 and text.isascii() and text.isdigit() and 1000 <= int(text) <= 2099


def other_forms(answer: str) -> tuple[str, ...]:
    """The other usual orders of a full date: "9 April 1634" for "April 9, 1634", and the reverse."""
    if date := _DAY_FIRST.fullmatch(answer):
        day, month, year = date.groups()
    elif date := _MONTH_FIRST.fullmatch(answer):
        month, day, year = date.groups()
    else:
        return ()
    forms = (f"{day} {month} {year}", f"{month} {day}, {year}", f"{month} {day} {year}")
    return tuple(form for form in forms if form != answer)


def shift_numbers(answer: str, seed: int, *, date: bool) -> str:
    """The answer with other numbers, in the same form.

    Args:
        answer: a gold answer that `is_numeric`, or another form of one.
        seed: determines the false values; equal values become equal values.
        date: whether small numbers are days of a month.
    """

    def shifted(match: re.Match[str]) -> str:
        written = match[0]
        if match["month"] is not None:
            return _shift_month(written, seed) if date else written
        if match["word"] is not None or match["ordinal"] is not None:
            names = _WORDS if match["word"] is not None else _ORDINALS
            value = names.index(written.lower())
            return _cased_like(written, names[min(_shift_integer(value, seed), len(names) - 1)])
        return _shift_digits(match["number"], match["end"] or "", seed, date)

    return _TOKEN.sub(shifted, answer)


def _shift_month(written: str, seed: int) -> str:
    names = next((names for names in MONTHS if written.capitalize() in names), MONTHS[1])
    place = next(i for i, name in enumerate(names) if name.lower().startswith(written.lower()[:3]))
    return _cased_like(written, names[(place + 1 + mix(seed, 1) % 11) % 12])


def _shift_digits(number: str, end: str, seed: int, date: bool) -> str:
    if end == "s" and len(number) == 4:  # a decade
        return f"{shift_year(int(number) // 10 * 10, seed, step=10)}s"
    if is_year(number):
        return f"{shift_year(int(number), seed)}{end}"
    if "." in number:
        whole, _, decimals = number.partition(".")
        value = _scaled(float(number.replace(",", "")), seed)
        text = f"{value:,.{len(decimals)}f}" if "," in whole else f"{value:.{len(decimals)}f}"
        return text + end
    value = int(number.replace(",", ""))
    if date and value <= 31:
        value = (value - 1 + 1 + mix(seed, 2) % 27) % 28 + 1
    else:
        value = _shift_integer(value, seed, most=95 if end == "%" else None)
    if end in ("st", "nd", "rd", "th"):
        end = "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return (f"{value:,}" if "," in number else str(value).zfill(len(number) if number[0] == "0" else 0)) + end


def shift_year(year: int, seed: int, step: int = 1) -> int:
    """Another year, 2 to 14 years away; with `step=10`, another decade."""
    distance = (2 + mix(seed, 3) % 13) if step == 1 else step * (1 + mix(seed, 3) % 4)
    forwards = mix(seed, 4) % 2 == 1
    return year + distance if forwards and (year + distance <= LAST_YEAR or year > LAST_YEAR) else year - distance


def _shift_integer(value: int, seed: int, most: int | None = None) -> int:
    if value <= 20:  # a number of the same class: 2 to 9, or 10 to 20
        low, high = (2, 9) if value < 10 else (10, 20)
        return low + (value - low + 1 + mix(seed, 5) % (high - low)) % (high - low + 1)
    zeros = len(str(value)) - len(str(value).rstrip("0"))
    unit: int = 10 ** min(zeros, len(str(value)) - 2)
    changed = round(_scaled(value, seed) / unit) * unit
    if most is not None and changed > most:
        changed = max(1, value * value // changed)
    return changed if changed != value else value + unit


def _scaled(value: float, seed: int) -> float:
    """The value times a factor in [0.55, 0.9] or [1.1, 1.8]."""
    u = uniform(seed, 6)
    return value * (0.55 + 0.7 * u if u < 0.5 else 1.1 + 1.4 * (u - 0.5))


def _cased_like(written: str, word: str) -> str:
    if written.isupper():
        return word.upper()
    return word.capitalize() if written[:1].isupper() else word.lower()
