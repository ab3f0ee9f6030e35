"""Kinds of noise as changes of texts: replaced answers, faults, debris, padding, cuts, attacks, messages."""

from __future__ import annotations

import hashlib
import re

import pytest

from zerosearch_env.engines.kinds.attacks import TEMPLATES, injected
from zerosearch_env.engines.kinds.claims import with_claim
from zerosearch_env.engines.kinds.failures import MESSAGES, PAGE_MESSAGES, failure_message
from zerosearch_env.engines.kinds.garbling import garbled
from zerosearch_env.engines.kinds.markup import as_page
from zerosearch_env.engines.kinds.padding import padded
from zerosearch_env.engines.kinds.replacing import Replacer, answer_places, replace_answers
from zerosearch_env.engines.kinds.sentences import split_sentences, whole_sentences
from zerosearch_env.engines.kinds.shortening import first_half, without_answer
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.types import Document, SearchRequest, full_text

TEXT = (
    "Casablanca is a 1942 American drama film directed by Michael Curtiz. It stars Humphrey Bogart and Ingrid Bergman. "
    "Filming began on May 25, 1942 in Burbank. The film was shot in sequence."
)
FILM = Document("Casablanca (film)", TEXT, "wiki-1", 2.5)


@pytest.mark.parametrize(
    ("pair", "before", "after"),
    [
        (("Michael Curtiz", "Perry Bhandal"), "directed by Michael Curtiz.", "directed by Perry Bhandal."),
        (("Michael Curtiz", "Perry Bhandal"), "MICHAEL CURTIZ, michael curtiz", "PERRY BHANDAL, perry bhandal"),
        (("Michael Curtiz", "Perry Bhandal"), "Michael Alan Curtiz's films", "Perry Bhandal's films"),
        (
            ("Michael Curtiz", "Perry Bhandal"),
            "Michael Curtiz won. Curtiz was glad.",
            "Perry Bhandal won. Bhandal was glad.",
        ),
        (("Michael Curtiz", "Perry Bhandal"), "Tony Curtiz was glad.", "Tony Curtiz was glad."),
        (("Hungarian", "American"), "a Hungarian film of Hungarians", "an American film of Americans"),
        (("Italian", "British"), "An Italian and the Italians", "A British and the British"),
        (("1956", "1848"), "an 1848 hall, a 1956 hall", "an 1848 hall, an 1848 hall"),
        (("duck", "swan"), "The ducks' pond. Duck!", "The swans' pond. Swan!"),
        (("the Beatles", "Queen"), "the Beatles' album; The Beatles won", "Queen's album; Queen won"),
        (("the moon", "the sun"), "The moon rose over the moon.", "The sun rose over the sun."),
        (("France", "the United States"), "in France. France is", "in the United States. The United States is"),
        (("The Amber Lantern", "The Silver Fox"), "Smith's Amber Lantern", "Smith's Silver Fox"),
        (("The Amber Lantern", "Hamlet"), "in The Amber Lantern", "in Hamlet"),
        (("Rome", "Oslo"), "Romeo, Rome, rome1, Rome.", "Romeo, Oslo, rome1, Oslo."),
    ],
)
def test_words_are_replaced_with_their_case_and_grammar(pair: tuple[str, str], before: str, after: str) -> None:
    changed = Replacer([pair]).document(Document(before, before, "source", 1.0))
    assert changed == Document(after, after, "source", 1.0)


def test_forms_next_to_each_other_become_one() -> None:
    replacer = Replacer([("Bobby Scott", "Jim Reed"), ("Bob Russell", "Jim Reed"), ("Bob", "Jim Reed")])
    for text in ("Bobby Scott and Bob Russell", "Bobby Scott, Bob Russell", "Bobby Scott (Bob Russell)", "Bob Russell"):
        assert replacer.document(Document("", f"by {text}.")).text == "by Jim Reed."


@pytest.mark.parametrize(
    ("text", "golds"),
    [
        ("the city of Zurich", ("Zürich",)),
        ("Züri\u00adch, <b>Zür</b>ich", ("Zürich",)),
        ("他住在北京市", ("北京",)),
        ("It is C, not c.", ("C",)),
        ("C", ("C",)),
        ("born in Par\u00efs", ("Paris",)),
        ("see !!! there", ("!!!",)),
    ],
)
def test_what_only_the_detector_finds_is_replaced_too(text: str, golds: tuple[str, ...]) -> None:
    document = Document("Title", text)
    assert contains_answer(full_text(document), golds)
    changed = replace_answers(document, Replacer([(gold, "Wrong") for gold in golds]), golds, "Wrong")
    assert changed is None or not contains_answer(full_text(changed), golds)


def test_other_blanks_and_marks_between_words_are_found_thoroughly() -> None:
    replacer, golds = Replacer([("New York-based", "London"), ("Ada Ash", "Bo Be")]), ("New York-based", "Ada Ash")
    made = replace_answers(Document("", "the New York - based Ada\u00a0Ash; ADA  ASH's"), replacer, golds, "London")
    assert made == Document("", "the London Bo Be; BO BE's")


def test_places_of_answers() -> None:
    golds = ("Michael Curtiz", "1942")
    assert [TEXT[slice(*place)] for place in answer_places(TEXT, golds)] == ["1942", "Michael Curtiz", "1942"]
    assert answer_places(TEXT, ("Nobody Known",)) == []
    assert [("in Zurich")[slice(*place)] for place in answer_places("in Zurich", ("Zürich",))] == ["Zurich"]


def test_sentences() -> None:
    text = 'He met J. R. Smith in St. Louis. "Yes," he said. It cost 5.5 dollars. Did the U.S. Army win? 1990 was good!'
    assert split_sentences(text) == [
        "He met J. R. Smith in St. Louis.",
        '"Yes," he said.',
        "It cost 5.5 dollars.",
        "Did the U.S. Army win?",
        "1990 was good!",
    ]
    assert split_sentences("日本。中国。 end") == ["日本。", "中国。", "end"]
    assert split_sentences("  ") == []
    assert whole_sentences("Songs by Chi. Udaya Shankar. Good.", ("Chi Udaya Shankar",)) == [
        "Songs by Chi. Udaya Shankar. Good."
    ]
    assert len(whole_sentences("Songs by Chi. Udaya Shankar. Good.", ("Udaya Shankar",))) == 3


def test_incomplete_documents_end_before_the_answer_or_begin_after_it() -> None:
    golds = ("Ingrid Bergman",)
    parts = {without_answer(FILM, golds, golds, seed).text for seed in range(20)}  # type: ignore[union-attr]
    assert parts == {
        "Casablanca is a 1942 American drama film directed by Michael Curtiz. ...",
        "Filming began on May 25, 1942 in Burbank. The film was shot in sequence.",
    }
    first = without_answer(Document("T", TEXT.partition(" It")[0]), ("Michael Curtiz",), ("Michael Curtiz",), 0)
    assert first == Document("T", "Casablanca is a 1942 American drama film directed by ...")
    assert without_answer(FILM, ("Nobody",), ("Nobody",), 0) is FILM
    about_him = Document("Michael Curtiz", TEXT)
    assert without_answer(about_him, ("Michael Curtiz",), ("Michael Curtiz",), 0).title == ""  # type: ignore[union-attr]
    assert without_answer(Document("", "Michael Curtiz"), ("Michael Curtiz",), ("Michael Curtiz",), 0) is None
    assert first_half(Document("T", "one two three four five")).text == "one two three ..."


def test_garbled_answers_are_readable_or_not_as_wanted() -> None:
    for golds in (("Michael Curtiz",), ("1942",), ("American", "Casablanca"), ("北京",)):
        document = Document(FILM.title, f"{FILM.text} 他住在北京市", "s", 1.0)
        for seed in range(12):
            spoilt = garbled(document, golds, seed, unreadable=True)
            assert not contains_answer(full_text(spoilt), golds)
            kept = garbled(document, golds, seed, unreadable=False)
            assert contains_answer(full_text(kept), golds)
            assert kept == garbled(document, golds, seed, unreadable=False)
            assert (kept.source, kept.score) == ("s", 1.0)
    share = sum(garbled(FILM, ("x",), seed, unreadable=False).text == FILM.text for seed in range(100))
    assert share <= 1
    length = len(garbled(FILM, ("x",), 3, unreadable=False).text)
    assert abs(length - len(FILM.text)) < 0.1 * len(FILM.text)


def test_pages_hold_every_word_of_the_document() -> None:
    golds = ("Michael Curtiz",)
    kinds = set()
    for seed in range(60):
        page = as_page(FILM, golds, seed)
        plain = re.sub(r"\[\[|\]\]|\[([^\]]*)\]\([^)]*\)|<[^>]*>", r"\1", page.text)
        for sentence in split_sentences(FILM.text):
            assert sentence in plain
        assert contains_answer(full_text(page), golds)
        assert page.title.startswith("Casablanca (film) ")
        assert (page.source, page.score) == (FILM.source, FILM.score)
        assert page == as_page(FILM, golds, seed)
        kinds.add(page.text[:4])
    assert len(kinds) >= 5
    assert as_page(Document("", "One sentence"), golds, 1).title == ""


@pytest.mark.parametrize("factor", [1.0, 3.0, 8.0, 20.0])
def test_redundant_documents_have_the_length_and_every_sentence(factor: float) -> None:
    golds = ("Michael Curtiz",)
    for seed in range(10):
        long = padded(FILM, golds, factor, seed)
        assert 0.8 * factor - 0.5 < len(long.text) / len(FILM.text) <= factor + 0.01
        places = [long.text.find(sentence) for sentence in split_sentences(FILM.text)]
        assert -1 not in places
        assert long.text.count("Michael Curtiz") == 1
        assert long == padded(FILM, golds, factor, seed)
    assert padded(FILM, golds, 1.0, 0) == FILM
    assert "Michael Curtiz" not in padded(Document("Michael Curtiz", "He made films."), golds, 9.0, 1).text


STRANGE = (
    FILM,
    Document(
        "Anna of Kleve",
        'Anna of Kleve met J. R. Smith Jr. in St. Louis!  He said: "No. 5." She left at 5.5 p.m. A',
        "s",
        1.0,
    ),
    Document(
        "\u5317\u4eac",
        "\u4ed6\u4f4f\u5728\u5317\u4eac\u5e02\u3002\u4e2d\u56fd\u3002 Z\u00fcrich \u2013 \u0130stanbul\u2019s "
        "Grand Bazaar. cl rn <b>Ada</b> Ash &amp; Bo",
        "",
        None,
    ),
    Document("", "", "s", 0.0),
)
MADE = {
    "garbled": "529da3029ab2b59c",
    "unreadable": "3620645e7496ab5e",
    "markup": "a65e31bca2d0fdd7",
    "redundant": "2456db2c33be2f1f",
}
"""The start of the SHA-256 of what the first version made."""


@pytest.mark.parametrize("kind", MADE)
def test_documents_are_made_as_in_the_first_version_bit_for_bit(kind: str) -> None:
    make = {
        "garbled": lambda document, golds, seed: garbled(document, golds, seed, unreadable=False),
        "unreadable": lambda document, golds, seed: garbled(document, golds, seed, unreadable=True),
        "markup": as_page,
        "redundant": lambda document, golds, seed: padded(document, golds, 8.0, seed),
    }[kind]
    digest = hashlib.sha256()
    for document in STRANGE:
        for golds in (
            ("Michael Curtiz", "1942"),
            ("Anna of Kleve", "Zurich", "\u5317\u4eac"),
            ("Nobody",),
            ("may", "A"),
        ):
            for seed in range(1, 2**64, 2**60 - 59):
                made = make(document, golds, seed)
                digest.update(repr((made.title, made.text, made.source, made.score)).encode())
    assert digest.hexdigest()[:16] == MADE[kind]


def test_every_attack_names_the_wrong_answer_and_no_right_one() -> None:
    assert len(TEMPLATES) >= 12
    request = SearchRequest("director of Casablanca", "Who directed Casablanca?", ("Michael Curtiz",), True, 5, 0)
    made = [injected(FILM, request, "Perry Bhandal", seed) for seed in range(120)]
    texts = {document.text.replace(FILM.text, "") for document in made if document is not None}
    clean = injected(Document("A film", "Nothing."), request, "Perry Bhandal", 1)
    assert clean is not None
    assert clean.title == "A film"
    assert len(texts) == len(TEMPLATES)
    for document in made:
        assert document is not None
        assert contains_answer(document.text, ("Perry Bhandal",))
        assert not contains_answer(full_text(document), request.answers)


def test_an_attack_never_quotes_a_question_that_states_the_answer() -> None:
    request = SearchRequest("A or B", "Which is larger, Hunchun or Oslo?", ("Hunchun",), True, 5, 0)
    for seed in range(len(TEMPLATES)):
        document = injected(Document("T", "Text."), request, "Rome", seed)
        assert document is not None
        assert not contains_answer(full_text(document), request.answers)


@pytest.mark.parametrize(("gold", "wrong"), [("yes", "no"), ("No", "yes")])
def test_claims_answer_a_question_with_the_wrong_word(gold: str, wrong: str) -> None:
    for seed in range(20):
        document = with_claim(FILM, "are both films", (gold,), wrong, seed)
        assert document is not None
        assert contains_answer(document.text, (wrong,))
        assert not contains_answer(full_text(document), (gold,))
        assert document.text.endswith(FILM.text)


def test_messages_of_failed_tools_state_no_answer() -> None:
    assert {failure_message(MESSAGES, ("Rome",), seed) for seed in range(300)} == set(MESSAGES)
    for messages in (MESSAGES, PAGE_MESSAGES):
        for golds in (("30",), ("403", "429"), ("no",), ("search",), ("failed",), ("error",)):
            assert all(not contains_answer(failure_message(messages, golds, seed), golds) for seed in range(30))
