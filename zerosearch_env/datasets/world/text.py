"""The text of the synthetic world: its relations, and the sentences that state them and ask about them.

In every template `%(s)s` is replaced by the subject and `%(o)s` by the object. In a follow-up sentence `%(s)s` is a
mention of the subject: its name, a short form or a pronoun.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact: the kinds of its subject and object, and the sentences that express it."""

    name: str
    subject: str
    """Kind of the subject: person, town, work, organisation."""
    object: str
    """Kind of the object: one of the above, region, or year."""
    noun: str
    """The relation as a noun: "the `noun` of SUBJECT is OBJECT"."""
    openers: tuple[str, ...]
    """Templates for the first sentence of a passage; they contain the subject's full name."""
    followers: tuple[str, ...]
    """Templates for later sentences of a passage."""
    questions: tuple[str, ...]
    """Templates for questions; the subject may be a phrase such as "the author of The Amber Lantern"."""

    @property
    def phrase(self) -> str:
        """A template that describes the object by its subject: "the author of %(s)s"."""
        return f"the {self.noun} of %(s)s"


def _relation(
    name: str, subject: str, object_: str, noun: str, openers: str, followers: str, questions: str
) -> Relation:
    def lines(block: str) -> tuple[str, ...]:
        out = []
        for line in block.strip().splitlines():
            out.append(line.strip().replace("{s}", "%(s)s").replace("{o}", "%(o)s"))
        return tuple(out)

    return Relation(name, subject, object_, noun, lines(openers), lines(followers), lines(questions))


RELATIONS: tuple[Relation, ...] = (
    _relation(
        "birthplace", "person", "town", "birthplace",
        """{s} was born in {o}.
        {s} was born in the town of {o}.
        The birthplace of {s} is {o}.
        Born in {o}, {s} never forgot the place.""",
        """{s} was born in {o}.
        {s} came into the world in {o}.
        The birthplace of {s} is {o}.""",
        """Where was {s} born?
        In which town was {s} born?
        What is the birthplace of {s}?""",
    ),
    _relation(
        "birth_year", "person", "year", "birth year",
        """{s} was born in {o}.
        {s} was born in the year {o}.
        The birth year of {s} is {o}.
        Born in {o}, {s} grew up in a large family.""",
        """{s} was born in {o}.
        {s} was a child of {o}.
        The birth year of {s} is {o}.""",
        """When was {s} born?
        In which year was {s} born?
        What is the birth year of {s}?""",
    ),
    _relation(
        "teacher", "person", "person", "teacher",
        """{s} was a pupil of {o}.
        {s} studied under {o}.
        The teacher of {s} was {o}.
        {o} taught {s} for several years.""",
        """{s} was a pupil of {o}.
        {s} studied under {o}.
        The teacher of {s} was {o}.""",
        """Who taught {s}?
        Who was the teacher of {s}?
        Under whom did {s} study?""",
    ),
    _relation(
        "spouse", "person", "person", "spouse",
        """{s} is married to {o}.
        {s} married {o} after a short engagement.
        The spouse of {s} is {o}.
        {o} is married to {s}.""",
        """{s} is married to {o}.
        {s} married {o} after a short engagement.
        The spouse of {s} is {o}.""",
        """Who is the spouse of {s}?
        Who is {s} married to?
        Whom did {s} marry?""",
    ),
    _relation(
        "employer", "person", "organisation", "employer",
        """{s} works for {o}.
        {s} spent a whole career at {o}.
        The employer of {s} is {o}.
        {o} hired {s} as an assistant.""",
        """{s} works for {o}.
        {s} took a post at {o}.
        The employer of {s} is {o}.""",
        """Who does {s} work for?
        What is the employer of {s}?
        Which organisation employs {s}?""",
    ),
    _relation(
        "region", "town", "region", "region",
        """{s} is a town in {o}.
        {s} lies in the middle of {o}.
        The region of {s} is {o}.
        Few towns in {o} are as old as {s}.""",
        """{s} is part of {o}.
        {s} lies in {o}.
        The region of {s} is {o}.""",
        """In which region is {s}?
        Which region does {s} lie in?
        What is the region of {s}?""",
    ),
    _relation(
        "mayor", "town", "person", "mayor",
        """{s} is a town whose mayor is {o}.
        {s} elected {o} as its mayor.
        The mayor of {s} is {o}.
        {o} is the mayor of {s}.""",
        """{s} is governed by {o}.
        {s} elected {o} by a narrow margin.
        The mayor of {s} is {o}.""",
        """Who is the mayor of {s}?
        Who governs {s}?
        Whom did {s} elect as mayor?""",
    ),
    _relation(
        "twin_town", "town", "town", "twin town",
        """{s} is twinned with {o}.
        {s} has been twinned with {o} for decades.
        The twin town of {s} is {o}.
        {o} is twinned with {s}.""",
        """{s} is twinned with {o}.
        {s} exchanges visits with {o}.
        The twin town of {s} is {o}.""",
        """What is the twin town of {s}?
        Which town is {s} twinned with?
        Which town is twinned with {s}?""",
    ),
    _relation(
        "charter_year", "town", "year", "charter year",
        """{s} received its charter in {o}.
        {s} became a town in {o}.
        The charter year of {s} is {o}.
        In {o} the settlement of {s} was chartered.""",
        """{s} received a charter in {o}.
        {s} was chartered in {o}.
        The charter year of {s} is {o}.""",
        """When did {s} receive its charter?
        In which year was {s} chartered?
        What is the charter year of {s}?""",
    ),
    _relation(
        "author", "work", "person", "author",
        """{s} is a novel by {o}.
        {s} was written by {o}.
        The author of {s} is {o}.
        {o} wrote {s} in a single winter.""",
        """{s} was written by {o}.
        {s} is the work of {o}.
        The author of {s} is {o}.""",
        """Who wrote {s}?
        Who is the author of {s}?
        Which writer wrote {s}?""",
    ),
    _relation(
        "publication_year", "work", "year", "publication year",
        """{s} is a novel of {o}.
        {s} was first printed in {o}.
        The publication year of {s} is {o}.
        In {o} the first copies of {s} were sold.""",
        """{s} came out in {o}.
        {s} was first printed in {o}.
        The publication year of {s} is {o}.""",
        """When did {s} come out?
        In which year was {s} first printed?
        What is the publication year of {s}?""",
    ),
    _relation(
        "publisher", "work", "organisation", "publisher",
        """{s} was published by {o}.
        {s} is sold by {o}.
        The publisher of {s} is {o}.
        {o} published {s} against all advice.""",
        """{s} was published by {o}.
        {s} is sold by {o}.
        The publisher of {s} is {o}.""",
        """Who published {s}?
        What is the publisher of {s}?
        Which organisation published {s}?""",
    ),
    _relation(
        "setting", "work", "town", "setting",
        """{s} is set in {o}.
        {s} takes place in {o}.
        The setting of {s} is {o}.
        {o} is the place where {s} unfolds.""",
        """{s} is set in {o}.
        {s} takes place in {o}.
        The setting of {s} is {o}.""",
        """Where is {s} set?
        In which town does {s} take place?
        What is the setting of {s}?""",
    ),
    _relation(
        "founder", "organisation", "person", "founder",
        """{s} was founded by {o}.
        {s} goes back to {o}, its founder.
        The founder of {s} is {o}.
        {o} founded {s} with borrowed money.""",
        """{s} was founded by {o}.
        {s} was set up by {o}.
        The founder of {s} is {o}.""",
        """Who founded {s}?
        Who is the founder of {s}?
        Who set up {s}?""",
    ),
    _relation(
        "headquarters", "organisation", "town", "headquarters",
        """{s} has its headquarters in {o}.
        {s} is based in {o}.
        The headquarters of {s} is {o}.
        From {o}, {s} serves the whole country.""",
        """{s} is based in {o}.
        {s} has its offices in {o}.
        The headquarters of {s} is {o}.""",
        """Where is {s} based?
        In which town is {s} based?
        What is the headquarters of {s}?""",
    ),
    _relation(
        "founding_year", "organisation", "year", "founding year",
        """{s} was founded in {o}.
        {s} has existed since {o}.
        The founding year of {s} is {o}.
        In {o} the doors of {s} opened.""",
        """{s} was founded in {o}.
        {s} has existed since {o}.
        The founding year of {s} is {o}.""",
        """When was {s} founded?
        In which year was {s} founded?
        What is the founding year of {s}?""",
    ),
    _relation(
        "director", "organisation", "person", "director",
        """{s} is led by {o}.
        {s} appointed {o} as its director.
        The director of {s} is {o}.
        {o} is the director of {s}.""",
        """{s} is led by {o}.
        {s} appointed {o} as its head.
        The director of {s} is {o}.""",
        """Who leads {s}?
        Who is the director of {s}?
        Who is the head of {s}?""",
    ),
)  # fmt: skip

BY_NAME: dict[str, Relation] = {relation.name: relation for relation in RELATIONS}

PASSAGE_PLANS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "person": (("birthplace", "birth_year", "teacher"), ("spouse", "employer")),
    "town": (("region", "mayor"), ("twin_town", "charter_year")),
    "work": (("author", "publication_year"), ("publisher", "setting")),
    "organisation": (("founder", "headquarters"), ("founding_year", "director")),
}
"""Kind of entity -> for each of its two passages, the relations that the passage states."""

PRONOUNS = {"person": None, "town": "The town", "work": "The novel", "organisation": "The institution"}
"""Mentions of a subject in follow-up sentences, instead of its name. None: the surname of the person."""

ASIDES: dict[str, tuple[str, ...]] = {
    "person": (
        "Friends remember a patient listener with a dry sense of humour.",
        "Letters from these years are kept in a private collection.",
        "A short biography appeared some years ago and sold out within weeks.",
        "Little else is known about this life.",
        "Two portraits survive, both by an unknown hand.",
    ),
    "town": (
        "A market is held there on the first day of every month.",
        "Visitors come mostly for the old bridge and the quiet streets.",
        "The harvest festival draws crowds from far away.",
        "A small railway station was added much later.",
        "Most houses are built of pale local stone.",
    ),
    "work": (
        "Critics were divided, but readers kept asking for a second part.",
        "It has been translated into more than a dozen languages.",
        "The first edition is now hard to find.",
        "A stage version was tried and soon given up.",
        "The ending is still a matter of debate.",
    ),
    "organisation": (
        "Its archives are open to visitors on request.",
        "A fire once destroyed most of the early records.",
        "It has changed hands only once.",
        "The old building is now a protected monument.",
        "An annual prize for young talent carries its name.",
    ),
}
"""Sentences that state no fact; they extend a passage to about thirty words."""
