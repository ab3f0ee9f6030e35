from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_env.engines.corpus.tokens import words


@pytest.mark.parametrize(
    ("text", "tokens"),
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
def test_words(text: str, tokens: list[str]) -> None:
    assert words(text) == tokens


@given(st.text())
def test_case_and_composition_do_not_count(text: str) -> None:
    import unicodedata

    assert words(text) == words(unicodedata.normalize("NFD", text))
    if text.isascii():
        assert words(text) == words(text.upper())


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_ascii_takes_a_short_cut_and_not_another_way(text: str) -> None:
    assert [*words(text), "é".replace("é", "e")] == words(text + " é")
