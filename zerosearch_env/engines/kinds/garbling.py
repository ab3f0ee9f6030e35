"""Documents with the faults of optical character recognition and of hasty typing.

directed by Michael Curtiz, released in 1938   ->   clirected by Micheal Curtiz, re- leased in l938
"""

from __future__ import annotations

import re

from ...game.answers import contains_answer
from ...randomness import mix, mix2
from ...types import Document, full_text
from .replacing import answer_places

_GAP = 72
"""A fault comes after 1 to 72 characters: on average one in 36 characters, or one in six words."""

_WORD = re.compile(r"[^\W_]+")
_TABLE = (
    "rn:m cl:d li:h vv:w ri:n fi:f1 tt:lt a:o,u b:h,6 c:e,o d:cl,o1 e:c,o f:t,l g:q,9 h:b,li i:l,1,j j:i,; k:lc,h "
    "l:1,i,I m:rn,nn n:u,ri o:0,c,e p:n,o q:g,9 r:t,v s:5,a t:f,l u:n,ii,v v:y,u w:vv,iv x:z,k y:v,g z:2,s A:4,R "
    "B:8,R C:G,( D:0,O E:F,B F:P,E G:6,C H:N,ll I:l,1,| J:),d K:X,R L:1,t M:N,IVI N:M,H O:0,Q,D P:F,R Q:O,0 R:K,P "
    "S:5,8 T:1,l U:V,ll V:Y,U W:VV,M X:K,Y Y:V,T Z:2,7 0:O,o 1:l,I 2:Z,7 3:8,B 4:A,1 5:S,6 6:b,G 7:1,T 8:B,3 "
    "9:g,q"
)
_MISREAD = {read: tuple(as_.split(",")) for read, _, as_ in (entry.partition(":") for entry in _TABLE.split())}
"""What a letter or a pair of letters is read as."""
_UNREADABLE = ("\u25a0",)
"""What is read in the place of a character that has no similar one."""


def garbled(document: Document, golds: tuple[str, ...], seed: int, *, unreadable: bool) -> Document:
    """A document with faults in its title and its text.

    Args:
        document: the document.
        golds: the gold answers.
        seed: determines the faults.
        unreadable: whether every gold answer becomes unreadable. If not, each keeps its letters.
    """
    stated = contains_answer(full_text(document), golds)
    title = _garble(document.title, golds if stated else (), mix(seed, 1), unreadable)
    text = _garble(document.text, golds if stated else (), mix(seed, 2), unreadable)
    made = Document(title, text, document.source, document.score)
    if stated and unreadable and contains_answer(full_text(made), golds):  # faults spell one, or it begins in the title
        for attempt in range(4):
            title, text = (_hide(part, golds, mix(seed, 3, attempt)) for part in (made.title, made.text))
            made = Document(title, text, document.source, document.score)
            if not contains_answer(full_text(made), golds):
                return made
        return Document("", made.text, document.source, document.score)
    return made


def _garble(text: str, golds: tuple[str, ...], seed: int, unreadable: bool) -> str:
    """Faults in the words between the answers, and in the answers too if they become unreadable."""
    if not golds:
        return _with_faults(text, seed)
    parts: list[str] = []
    at = 0
    for start, end in answer_places(text, golds):
        answer = text[start:end]
        parts += (
            _with_faults(text[at:start], mix(seed, at)),
            _spoilt(answer, golds, mix2(seed, at, 1)) if unreadable else answer,
        )
        at = end
    return "".join((*parts, _with_faults(text[at:], mix(seed, at))))


def _with_faults(text: str, seed: int) -> str:
    # One loop without calls: a document has about 16 faults, and all documents of a search are garbled.
    parts: list[str] = []
    at, place, state, length = 0, 0, seed, len(text)
    while True:
        state = (state * 0x5851F42D4C957F2D + 0x14057B7EF767814F) & 0xFFFFFFFFFFFFFFFF  # Knuth's generator
        draw = state >> 40
        place += 1 + draw % _GAP
        if place >= length:
            parts.append(text[at:])
            return "".join(parts)
        if place <= at or not (here := text[place]).isalnum():
            continue
        parts.append(text[at:place])
        at = place + 1
        kind = (draw >> 6) & 7
        if kind == 5:  # a letter is missing
            continue
        if kind == 6:  # a letter is typed twice
            parts.append(here + here)
            continue
        pair = text[place : place + 2]
        if kind == 4 and pair[1:].isalpha() and pair[1] != here:  # two letters change places
            parts.append(pair[1] + here)
            at = place + 2
        elif kind == 7 and place >= 2 and text[place - 2 : place + 3].isalpha():  # the hyphen of a line's end
            parts.append(here + "- ")
        else:
            similar = _MISREAD.get(pair) if len(pair) == 2 else None
            if similar is None:
                similar = _MISREAD.get(here, _UNREADABLE)
            else:
                at = place + 2
            parts.append(similar[(draw >> 9) % len(similar)])


def _misread(text: str, place: int, draw: int) -> tuple[int, str]:
    """The end of the character or the pair that is misread, and what it is read as."""
    pair = text[place : place + 2]
    if len(pair) == 2 and (similar := _MISREAD.get(pair)):
        return place + 2, similar[draw % len(similar)]
    similar = _MISREAD.get(text[place], _UNREADABLE)
    return place + 1, similar[draw % len(similar)]


def _spoilt(answer: str, golds: tuple[str, ...], seed: int) -> str:
    """An answer with one fault per word, or more until it is unreadable."""
    spoilt = answer
    for attempt in range(3):
        parts: list[str] = []
        at = 0
        for word in _WORD.finditer(spoilt):
            parts += (spoilt[at : word.start()], _with_fault(word[0], mix(seed, attempt, word.start())))
            at = word.end()
        spoilt = "".join((*parts, spoilt[at:]))
        if not contains_answer(spoilt, golds):
            return spoilt
    return "".join(_misread(c, 0, seed >> 8)[1] if c.isalnum() else c for c in answer)


def _with_fault(word: str, draw: int) -> str:
    place = draw % len(word)
    end, fault = _misread(word, place, draw >> 8)
    return word[:place] + fault + word[end:]


def _hide(text: str, golds: tuple[str, ...], seed: int) -> str:
    for start, end in reversed(answer_places(text, golds)):
        text = text[:start] + _spoilt(text[start:end], golds, seed) + text[end:]
    return text
