from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_env.engines.corpus import tokens
from zerosearch_env.engines.corpus.tokens import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("?! -- ...", []),
        ("Who wrote Hamlet?", ["who", "wrote", "hamlet"]),
        ("snake_case and-dashes", ["snake", "case", "and", "dashes"]),
        ("St. Maurice's Abbey", ["st", "maurice", "abbey"]),
        ("St. Maurice\u2019s Abbey", ["st", "maurice", "abbey"]),
        ("MAURICE'S", ["maurice"]),
        ("Malcolm X in 1,000 B.C.", ["malcolm", "x", "in", "1", "000", "b", "c"]),
        ("Besançon", ["besancon"]),
        ("straße \uff26\uff35\uff2c\uff2c \ufb01ne", ["strasse", "full", "fine"]),
        ("東京 tower", ["東", "京", "tower"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("한국어", ["한국어"]),
        ("\ud800 alone", ["alone"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_case_and_composition_do_not_count(text: str) -> None:
    assert words(text) == words(unicodedata.normalize("NFD", text))
    if text.isascii():
        assert words(text) == words(text.upper())


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_ascii_takes_a_short_cut_and_not_another_way(text: str) -> None:
    assert [*words(text), "é".replace("é", "e")] == words(text + " é")


def slow_words(text: str) -> list[str]:
    """Every text by the path for texts that do not become ASCII."""
    text = tokens._ACCENTS.sub("", unicodedata.normalize("NFKD", text)).casefold()
    return tokens._WORDS(unicodedata.normalize("NFC", tokens._POSSESSIVE.sub("", text)))


@given(st.text(alphabet=st.one_of(st.sampled_from("abS '\u2019\u2013\u2014_1.\u00e9\u00df\ufb01"), st.characters())))
def test_a_text_that_becomes_ascii_takes_a_short_cut_and_not_another_way(text: str) -> None:
    assert words(text) == slow_words(text)


def test_the_short_cuts_on_real_passages(shared_data: Path) -> None:
    lines = (shared_data / "wikipedia_passages.jsonl").read_text("utf-8").splitlines()[::7]
    for line in lines:
        text = json.loads(line)["contents"]
        assert words(text) == slow_words(text)
