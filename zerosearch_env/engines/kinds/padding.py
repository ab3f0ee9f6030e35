"""Documents that say little at length: every sentence of the original, in order, among repetitions and filler.

redundant:8   a document eight times as long
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import cycle

from ...game.answers import contains_answer
from ...randomness import split, splits
from ...types import Document, full_text
from .sentences import split_sentences, whole_sentences

_LEADS = (
    ("As mentioned above, ", True),
    ("To put it another way: ", False),
    ("In other words, ", True),
    ("It is worth repeating that ", True),
    ("Once again, ", True),
    ("As already noted in this article, ", True),
    ("To summarise what has been said so far: ", False),
    ("Readers often ask about this, so let us say it once more: ", False),
    ("", False),
    ("Keep in mind: ", False),
)
"""(words before a repeated sentence, whether it continues theirs)."""
_LOWERED = frozenset(
    "The A An It He She They This These Those That There In On At After Before During His Her Its Their While When "
    "Since For From With By As Both Some Many Most Other".split()
)
"""First words of a sentence that have a small letter after "in other words,"."""
_FILLER = tuple(
    sentence.split("{t}")
    for sentence in (
        "If you are looking for information about {t}, you have come to the right place.",
        "In this article, we will take a closer look at {t} and at everything you need to know about it.",
        "There is a lot to say about {t}, and we will get to all of it step by step.",
        "Many people search for {t} every day, and it is easy to see why.",
        "Before we go any further, let us first look at the background of {t}.",
        "The topic of {t} is a broad one, and there is more to it than meets the eye.",
        "Opinions about {t} differ, and there are many sides to consider.",
        "As with any topic of this kind, it is important to look at the whole picture.",
        "That being said, there are a number of further points that deserve attention.",
        "This brings us to the next point, which is closely related to the previous one.",
        "Of course, this is only one part of the story, and there is more to come below.",
        "We hope that this overview of {t} is helpful; feel free to share it with your friends.",
        "In the following section, the most important facts about {t} are presented once more.",
        "It goes without saying that the details matter here, as they do in many other cases.",
        "Whether you are new to {t} or have known it for years, the following will be of interest.",
        "Having covered the basics, we can now turn to some of the finer points.",
        "For the sake of completeness, some of the above is repeated here in a slightly different order.",
        "All in all, it is fair to say that {t} continues to attract attention.",
    )
)
"""Sentences about `{t}`, split where it is."""
_ORDERS = tuple(
    tuple(_FILLER[(start + 7 * number) % len(_FILLER)] for number in range(len(_FILLER)))
    for start in range(len(_FILLER))
)
"""The orders in which they come, by the first of them."""
_EVERYTHING = " | ".join(("".join(lead for lead, _ in _LEADS), *map(" | ".join, _FILLER)))


def padded(document: Document, golds: tuple[str, ...], factor: float, seed: int) -> Document:
    """A document about `factor` times as long, with every sentence of the original one in its order.

    Args:
        document: the document.
        golds: the gold answers. A sentence that states one is not repeated: that would show the answer.
        factor: length of the new text in lengths of the old one, at least 1.
        seed: determines the filler and where the sentences are.
    """
    stated = contains_answer(full_text(document), golds)
    sentences = whole_sentences(document.text, golds) if stated else split_sentences(document.text)
    if not sentences:
        return document
    topic = document.title or "this topic"
    room = int(len(document.text) * factor) - len(document.text)
    repeated: Sequence[str] = sentences
    if stated:
        repeated = [sentence for sentence in sentences if not contains_answer(sentence, golds)]
        topic = "this topic" if contains_answer(topic, golds) else topic
    fillers = _fillers(topic, repeated, seed, room)
    if _may_state(golds):
        fillers = [filler for filler in fillers if not contains_answer(filler, golds)]
    # Each sentence gets a place among the filler; sorted places keep the order of the sentences.
    places = sorted(split(seed, 11000 + number) % (len(fillers) + 1) for number in range(len(sentences)))
    parts: list[str] = []
    at = 0
    for place, sentence in zip(places, sentences, strict=True):
        parts += (*fillers[at:place], sentence)
        at = place
    return Document(document.title, " ".join((*parts, *fillers[at:])), document.source, document.score)


@lru_cache(maxsize=4096)
def _may_state(golds: tuple[str, ...]) -> bool:
    """Whether filler without its topic states an answer, such as "may"."""
    return contains_answer(_EVERYTHING, golds)


def _fillers(topic: str, repeated: Sequence[str], seed: int, room: int) -> list[str]:
    """Filler about the topic and repeated sentences in turn, of `room` characters with a blank after each."""
    lowered = [
        sentence[:1].lower() + sentence[1:] if sentence.partition(" ")[0] in _LOWERED else sentence
        for sentence in repeated
    ]
    fillers: list[str] = []
    count, leads = len(repeated), len(_LEADS)
    for about, draw in zip(cycle(_ORDERS[split(seed, 111) % len(_FILLER)]), splits(seed, 11200), strict=False):
        filler = topic.join(about)
        room -= len(filler) + 1
        if room < 0:
            break
        fillers.append(filler)
        if count:
            lead, inside = _LEADS[draw % leads]
            filler = lead + (lowered if inside else repeated)[(draw >> 32) % count]
            room -= len(filler) + 1
            if room < 0:
                break
            fillers.append(filler)
    return fillers
