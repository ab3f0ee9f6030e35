"""Types of answers, read from the answer and from the question: what a wrong answer must share with the right one.

    question                               answer                form      class     asked for
    who wrote the song what child is this  William Dix           person    person    who
    In which county is ... ?               Finnmark county       name      place     county
    which highway begins at ... ?          Southern State Road   person    place     highway
    what is the main use of ... ?          paid monument         phrase    -         use

The form is what the letters show, the class what the thing is: by the last word of the answer, by the noun that the
question asks for, or by its "who" and "where".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from ...game.folding import WORD, fold, without_accents
from .numbers import is_date, is_numeric, is_year

Form = Literal["yes/no", "year", "date", "number", "person", "place", "title", "name", "description", "phrase"]
NAMES = ("person", "place", "title", "name")
"""Forms with capital letters."""

_SMALL = frozenset("of the and de la von van der den del di da du bin ibn al el y for in on at to a an le les".split())
_PARTICLES = frozenset("de la von van der den del di da du bin ibn al el".split())
_ARTICLES = frozenset(("a", "an", "the"))
_CACHED = 16384
"""Answers whose key and form are kept: those of a dataset are drawn again and again."""
_MARKS = re.compile(r"[.'\u2019-]")

_WH = re.compile(r"\b(who|whom|whose|where|when|what|which|how (?:many|much|long|old|far|often|tall|big|high))\b")
_LEAD = re.compile(
    r"(?:['\u2019]s)?(?: (?:is|was|are|were|will be))?(?: (?:the|a|an|his|her|their|its))?"
    r"(?: (?:full |first |last |real |birth )?(?:name|names|title|type|kind|part|one) of (?:the |a |an |this )?)?"
)
_ENDS_NOUN = frozenset(
    "of that which who whom whose is was are were be been has have had did does do can could will would in on at by to "
    "from with for and or as played plays won wins wrote directed starred stars made sang sings founded known located "
    "born called named released hosted produced served serves features featured include includes you it he she they "
    "when where after before during between both also the".split()
)
_CLASSES = {
    noun: kind
    for kind, nouns in {
        "person": (
            "person people man woman actor actress singer songwriter director author writer player president king "
            "queen emperor prince princess musician composer artist politician minister leader founder guitarist "
            "drummer rapper comedian character wife husband father mother son daughter brother sister poet "
            "novelist painter scientist philosopher coach driver footballer quarterback model producer host "
            "governor senator general ruler god goddess wrestler boxer star journalist businessman architect "
            "designer inventor"
        ),
        "place": (
            "country city town state county region river mountain mountains island village place location "
            "district province continent area street capital lake sea ocean borough neighborhood neighbourhood "
            "highway road route park stadium arena building airport venue desert valley suburb municipality "
            "peninsula territory prefecture countries states cities parish"
        ),
        "organisation": (
            "band team company university school club organization organisation airline network label party "
            "agency college brand group league corporation bank church studio publisher newspaper channel "
            "manufacturer military army division conference"
        ),
        "work": (
            "film movie song album book novel series show play magazine opera game episode musical single poem "
            "screenplay hit sitcom documentary soundtrack comic drama story painting"
        ),
        "people": ("nationality language ethnicity religion tribe"),
    }.items()
    for noun in nouns.split()
}
_LAST_WORDS = {
    word: kind
    for kind, words in {
        "place": (
            "River County Island Islands Mountain Mountains Lake Bay Valley Parkway Street Avenue Road Highway "
            "Park Beach Hills Hill Desert Sea Ocean Peninsula Airport Stadium Arena Center Centre Tower Castle "
            "Palace Bridge Forest Square Garden Gardens Hall England Scotland Ireland Wales USA California Texas "
            "Florida Australia Canada India Germany France Italy China Japan America Europe Africa Asia county"
        ),
        "organisation": (
            "University College School Academy Institute Airlines Airways Company Inc Corporation Records Club FC "
            "Party Church Bank Group Association League Society Foundation Press Band Orchestra Museum Library "
            "Network Army Navy Police Entertainment Studios Pictures Industries Motors Wanderers United Senate "
            "Court Congress Committee"
        ),
    }.items()
    for word in words.split()
}


@lru_cache(maxsize=_CACHED)
def answer_key(answer: str) -> str:
    """An answer as folded words without articles; two answers with equal keys are the same answer."""
    words = WORD.findall(without_accents(fold(answer)))
    return " ".join([word for word in words if word not in _ARTICLES] or words)


@lru_cache(maxsize=_CACHED)
def answer_form(answer: str) -> Form:
    """The form of an answer.

    A person has two to four capitalised words, a place names a larger one after a comma, a title begins with an
    article. A name is anything else with capital letters, a description has them in some words ("leg spinner Jimmy
    Matthews"), a phrase in none.
    """
    if answer_key(answer) in ("yes", "no"):
        return "yes/no"
    if is_year(answer.strip()):
        return "year"
    if is_date(answer):
        return "date"
    if is_numeric(answer):
        return "number"
    words = answer.split()
    content = [word for word in words if word.lower() not in _SMALL]
    capitals = sum(word.lstrip("\"'(")[:1].isupper() for word in content)
    if 2 * capitals <= len(content):
        return "description" if any(map(str.isupper, answer[1:])) else "phrase"
    if words[0] in ("The", "A", "An"):
        return "title"
    if "," in answer:
        return "place"
    plain = all(word in _PARTICLES or (word[0].isupper() and _MARKS.sub("", word).isalpha()) for word in words)
    return "person" if plain and 2 <= len(words) <= 4 else "name"


def is_person(name: str) -> bool:
    """Whether a name may be that of a person: a first and a last name, or more of them."""
    return answer_form(name) == "person" and name.split()[-1] not in _LAST_WORDS


@lru_cache(maxsize=_CACHED)
def asked_for(question: str) -> str:
    """What a question asks for: the noun after "what" or "which", otherwise the question word; "" if it has none.

    The question word is the one at the beginning. In a question that begins otherwise, it is the last one, and rather
    not "who", which usually begins a clause.
    """
    text = question.lower()
    found = list(_WH.finditer(text))
    if not found:
        return ""
    match = found[0]
    if len(text[: match.start()].split()) > 2:
        match = next((other for other in reversed(found) if not other[1].startswith("who")), found[-1])
    if match[1] not in ("what", "which"):
        return match[1]
    lead = _LEAD.match(text, match.end())
    nouns: list[str] = []
    for word in text[lead.end() if lead else match.end() :].split()[:6]:
        bare = word.strip(",.?!;:\"'()")
        if bare in _ENDS_NOUN or not bare:
            break
        nouns.append(bare.removesuffix("'s"))
        if bare != word:
            break
    return nouns[-1] if nouns else match[1]


def answer_class(answer: str, asked: str) -> str:
    """The class of an answer, or "" if neither the answer nor what the question asks for tells it.

    Args:
        answer: the answer.
        asked: see `asked_for`.
    """
    last = _LAST_WORDS.get(answer.split()[-1].strip(".,")) if answer.split() else None
    if last is not None:
        return last
    if asked in ("who", "whom", "whose"):
        return "person"
    if asked == "where":
        return "place"
    return _CLASSES.get(asked) or _CLASSES.get(asked.removesuffix("s"), "")
