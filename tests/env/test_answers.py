"""The detector of gold answers: ordinary spellings, many scripts, the special rules, and an independent definition."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from squad import squad

from zerosearch_benchmarks.noise.guard import plain_words
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.answers import answer_spans, contains_answer, documents_contain_answer
from zerosearch_env.game.folding import fold, without_accents
from zerosearch_env.types import Document

DASH, MINUS, CURLY = "\u2013", "\u2212", "\u2019"


@pytest.mark.parametrize(
    "spelling",
    [
        *(
            "Paris",
            "paris",
            "PARIS",
            "Paris's",
            f"Paris{CURLY}s",
            "Paris-based",
            f"Paris{DASH}Lyon",
            "pro-Paris",
            "par-is",
        ),
        *("\u201cParis\u201d", "\u00abParis\u00bb", "\u201eParis\u201c", "'Paris'", "(Paris)", "[Paris]", "Paris[1]"),
        *(
            "Paris\u00b9",
            "Paris\u00b2",
            "Lyon,Paris,Nice",
            f"Lyon\u2014Paris{DASH}Nice",
            "Lyon/Paris",
            "_Paris_",
            "**Paris**",
        ),
        *("<b>Paris</b>", "Par<b>is</b>", "<a href='x'>Paris</a>", "[Paris](http://example.org)", "[[Paris|city]]"),
        *("P&#97;ris", "&quot;Paris&quot;", "&nbsp;Paris", "\u00a0Paris\u00a0", "Paris\u2026", "Paris:", "Paris\u3002"),
        *(
            "\uff30\uff41\uff52\uff49\uff53",
            "P\u00e2r\u00efs",
            "Pa\u0302ris",
            "Pa\u00adris",
            "Par\u200bis",
            "\u200fParis",
        ),
        *("Paris\x01", "\u30d1\u30ea(Paris)\u306f", "Paris\u306f\u9996\u90fd", "\u041fParis"),
    ],
)
def test_a_reader_sees_the_answer(spelling: str) -> None:
    assert contains_answer(f"It is {spelling} of course.", ["Paris"])
    assert contains_answer(spelling, ["Lyon City", "Paris"])


@pytest.mark.parametrize("text", ["Parisian", "comparison", "Par is", "", "par", "P a r i s", "Paris2", "xParis"])
def test_parts_of_words_do_not_count(text: str) -> None:
    assert not contains_answer(text, ["Paris"])


@pytest.mark.parametrize(
    ("answer", "text", "stated"),
    [
        (f"1914{DASH}1918", "it lasted 1914-1918.", True),
        ("1914-1918", f"(1914{MINUS}1918)", True),
        ("1,234", "1234 people", True),
        ("1234", "1,234 people", True),
        ("1234", "12345 people", False),
        ("50%", "50 % of it", True),
        ("$5", "a $5 bill", True),
        ("C++", "written in C++.", True),
        ("AT&T", "AT&amp;T Inc.", True),
        ("U.S.", "the US economy", True),
        ("Bram Stoker", "Bram Stoker's-based", True),
        ("Bram Stoker", "<b>Bram</b> Stoker", True),
        ("Bram Stoker", "Bram and Stoker", False),
        ("O'Brien", f"O{CURLY}Brien-led", True),
        ("O'Brien", "OBrien", True),
        ("The Beatles", "a Beatles song", True),
        ("Bridge of the Americas", "the bridge of Americas", True),
        ("Rise of New York", "the rise of the new\n York (state)", True),
        ("Zürich", "in Zurich", True),
        ("Zurich", "in Zu\u0308rich", True),
        ("Łódź", "Lodz", True),
        ("Müller", "M&uuml;ller", True),
        ("Straße", "Strasse 5", True),
        ("Ærø", "Aero", True),
        ("Hawai\u02bbi", "Hawai'i", True),
        ("\ufb01sh", "fish", True),
        ("\u096d", "7", True),
        ("Москва", "столица — «Москва».", True),
        ("Москва", "Москвич", False),
        ("Пётр Первый", "петр первый", True),
        ("Ελλάδα", "στην Ελλαδα.", True),
        ("巴黎", "法国的首都是巴黎。", True),
        ("巴黎", "里昂是法国的城市", False),
        ("村上春樹", "村上 春樹の小説", True),
        ("ジョン・スミス", "ジョンスミスは", True),
        ("ガ", "カ\u3099", True),
        ("กรุงเทพ", "เมืองหลวงคือกรุงเทพมหานคร", True),
        ("القاهرة", "عاصمة مصر هي القاهرة، وهي", True),
        ("القاهرة", "وبالقاهرة", True),
        ("مُحَمَّد", "محمد", True),
        ("서울", "서울은 수도", True),
        ("दिल्ली", "भारत की राजधानी दिल्ली।", True),
        ("दिल", "दिल्ली", False),
        # yes and no are words; single letters stand alone, in their case; articles fill the text; marks stand apart.
        ("no", "I do not know", False),
        ("no", "No!", True),
        ("C", "Vitamin C is", True),
        ("C", "(C)", True),
        ("C", "C\u00b9", True),
        ("\u249e", "some text", False),
        ("C", "c is", False),
        ("S", "Stoker's", False),
        ("A", "a book", False),
        ("The", "The band", False),
        ("The", "the", True),
        ("!!!", "the band !!! played", True),
        ("!!!", "wow!!!", False),
        ("N/A", "Robert N. Bradbury", False),
        ("N/A", "it is N/A", True),
        ("", "anything", False),
        ("中", "中国", True),
    ],
)
def test_known_cases(answer: str, text: str, stated: bool) -> None:
    assert contains_answer(text, [answer]) is stated


def test_long_texts_and_no_answers() -> None:
    filler = "know nothing nowhere, naïve " * 50
    assert not contains_answer(filler, ["no"])
    assert contains_answer(filler + "No!", ["no"])
    assert not contains_answer(filler, [])
    with pytest.raises(ConfigError, match=r"got one string 'Paris'\. Put it in a tuple"):
        contains_answer("Paris", "Paris")


def test_no_answer_spans_two_documents() -> None:
    parts = [Document("New", "town"), Document("York", "city"), Document("", "東"), Document("", "京")]
    assert not documents_contain_answer(parts, ["town York"])
    assert not documents_contain_answer(parts, ["東京"])
    assert documents_contain_answer(parts, ["York city", "x"])


def test_a_character_decides_the_same_with_a_byte_of_its_own_and_folded_by_the_handler() -> None:
    for character in map(chr, [*range(1, 0x250), *range(0x2000, 0x2070), *range(0xFB00, 0xFB07)]):
        if character.isalpha() and not without_accents(fold(character)).isascii():
            continue  # "µParis": the fast path reads letters of other scripts as blanks
        for text in (f"Par{character}is", f"{character}Paris", f"x{character}"):
            assert contains_answer(text, ["Paris"]) == bool(answer_spans(text, ["Paris"])), repr(character)


def test_an_answer_that_would_be_an_article_without_its_marks() -> None:
    assert contains_answer("the band T.H.E. played", ["T.H.E."])
    assert not contains_answer("the band played", ["T.H.E."])


def ordinary(answer: str) -> bool:
    """Whether no special rule holds: more than a letter, an article or marks. Superscripts do not count."""
    return all(
        sum(c.isdecimal() or c.isalpha() for c in squad(form)) > 1 for form in (answer, without_accents(fold(answer)))
    )


pieces = st.sampled_from(
    [
        "a",
        "the ",
        "The",
        " ",
        "\n",
        ".",
        "-",
        "'",
        "_",
        DASH,
        "é",
        "İ",
        "ß",
        "xy",
        "york",
        "new ",
        "7",
        "中",
        "क्",
        "\u3099",
    ]
)
texts = st.lists(pieces, max_size=8).map("".join) | st.text(max_size=12)


@settings(max_examples=150)
@given(texts, texts)
@example("it is the U.S. of today", "us")
@example("aa\u0130", "aa\u0130a")
@example("the house of the The", "The")
def test_what_squad_finds_is_found(text: str, answer: str) -> None:
    """Answers with the special rules aside, the detector is at least as strict as SQuAD's tokens."""
    gold = squad(answer)
    # Marks without their letter; SQuAD's lower case of the Turkish \u0130 makes one, which ends a word there.
    assume(not any(unicodedata.category(c).startswith("M") for c in (text + answer).lower()))
    if ordinary(answer) and f" {gold} " in f" {squad(text)} ":
        assert contains_answer(text, [answer])


@settings(max_examples=150)
@given(texts, texts, texts)
@example("", "A\u00d1", "a")  # an article without its accent
def test_an_answer_is_found_in_the_text_that_holds_it(before: str, answer: str, after: str) -> None:
    if ordinary(answer):
        assert contains_answer(f"{before} {answer} {after}", [answer])


@settings(max_examples=150)
@given(texts, texts)
@example("\u4e2d a", "\u4e2da")
def test_spans_are_found_where_the_answer_is(text: str, answer: str) -> None:
    text = unicodedata.normalize("NFC", text)
    spans = answer_spans(text, [answer])
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    if spans:
        assert contains_answer(text, [answer])


def test_real_documents(shared_data: Path) -> None:
    lines = (shared_data / "real_search_trajectories.jsonl").read_text(encoding="utf-8").strip().split("\n")
    found = 0
    for row in map(json.loads, lines[::3]):
        golds = [plain_words(answer) for answer in row["answers"]]
        for document in (text for search in row["searches"] for text in search["documents"]):
            padded = f" {' '.join(plain_words(document))} "
            if any(gold and f" {' '.join(gold)} " in padded for gold in golds):
                assert contains_answer(document, row["answers"]), (row["answers"], document)
                found += 1
    assert found > 100
