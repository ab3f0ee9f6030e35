"""What the menu reads in questions and documents."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_benchmarks.learning.sb3.ceiling import measure_ceiling
from zerosearch_env import WorldConfig, load_dataset, make_engine, make_rules
from zerosearch_env.integrations.menu.reading import (
    find_evidence,
    kind_fit,
    name_kind,
    read_document,
    read_question,
    read_sentence,
)

STEPS = {
    "Where was Al Berg born?": ("Al Berg", [(("born",), "place")]),
    "What is the capital of France?": ("France", [(("capital",), "place")]),
    "Who wrote The Amber Lantern?": ("The Amber Lantern", [(("wrote",), "person")]),
    "Who directed the film El Tonto?": ("El Tonto", [(("directed",), "person")]),
    "In which year was the director of the film El Tonto born?": (
        "El Tonto",
        [(("director",), "person"), (("year", "born"), "year")],
    ),
    "Who is the mayor of the birthplace of Al Berg?": (
        "Al Berg",
        [(("birthplace",), "place"), (("mayor",), "person")],
    ),
    "What is the birth year of the spouse of the author of Dracula?": (
        "Dracula",
        [(("author",), "person"), (("spouse",), "person"), (("birth", "year"), "year")],
    ),
    "Which organisation employs the teacher of Ann Lee?": (
        "Ann Lee",
        [(("teacher",), "person"), (("organisation", "employs"), "organisation")],
    ),
    "how many people live in berlin": ("", [(("people", "live", "berlin"), "number")]),
    "": ("", [((), None)]),
}


@pytest.mark.parametrize("text", STEPS)
def test_the_steps_of_a_question(text: str) -> None:
    subject, steps = STEPS[text]
    question = read_question(text)
    assert question.subject == subject
    assert [(step.words, step.kind) for step in question.steps] == steps


def test_a_title_tells_where_a_question_starts() -> None:
    text = "Who directed the film Hands Up or I'll Shoot?"
    question = read_question(text, " hands up or i'll shoot ")
    assert question.subjects[0] == " hands up or i'll shoot "
    assert question.steps[0].words == ("directed",)


def test_the_names_and_numbers_of_a_sentence() -> None:
    sentence = read_sentence("In 1931 Michael Curtiz's film, an Italian Opera with K. Rao, came to the Bank of York.")
    assert [(span.text, span.kind) for span in sentence.spans] == [
        ("1931", "year"),
        ("Michael Curtiz", "person"),
        ("Italian", "nationality"),
        ("Opera", "name"),
        ("K. Rao", "person"),
        ("Bank of York", "person"),
    ]
    assert not read_sentence("The town was quiet in May.").spans


def test_the_kinds_of_names() -> None:
    names = {"Lake Press": "organisation", "Kara Falls": "place", "The Lamp": "title", "French": "nationality"}
    assert {name: name_kind(name.casefold().split()) for name in names} == names
    assert kind_fit("year", "person") == 0 < kind_fit("place", "person") < kind_fit("name", "person") < 1
    assert kind_fit("person", "person") == 1


def test_the_best_evidence_is_about_the_subject_names_the_relation_and_fits() -> None:
    question = read_question("Who taught Ann Lee?")
    step = question.steps[0]
    own = read_document("Ann Lee", "Ann Lee was born in Kara Falls. Lee was a pupil of Bo Grey. Lee married Di Hart.")
    scores = {e.span.text: e.score for e in find_evidence(own, question.subjects[0], step, question)}
    assert max(scores, key=scores.__getitem__) == "Bo Grey"
    assert scores["Di Hart"] < 0.5 * scores["Bo Grey"]
    other = read_document("Cy Dunn", "The teacher of Cy Dunn was Ann Lee.")
    (evidence,) = find_evidence(other, question.subjects[0], step, question)
    assert evidence.span.text == "Cy Dunn"
    assert evidence.score < 0.5 * scores["Bo Grey"]
    assert (
        find_evidence(read_document("Cy Dunn", "Cy Dunn married Di Hart."), question.subjects[0], step, question) == []
    )


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=120), st.text(max_size=200))
def test_any_text_can_be_read(title: str, text: str) -> None:
    question = read_question(text)
    reading = read_document(title, text)
    for sentence in reading.sentences:
        assert len(sentence.words) == len(sentence.stems) == len(sentence.relations)
        for span in sentence.spans:
            assert span.text in text
            assert 0 <= span.start < span.end <= len(sentence.words)
    for step in question.steps:
        for evidence in find_evidence(reading, "", step, question):
            assert 0 <= evidence.score <= 1


@pytest.mark.slow
def test_without_noise_the_right_answer_is_on_the_menu() -> None:
    data = load_dataset("world", "test", world=WorldConfig(passages=2000, questions=240))
    found = measure_ceiling(data.questions, make_engine("corpus", dataset=data), make_rules())
    assert found["1-hop"].questions == found["2-hop"].questions == 120
    assert found["1-hop"].on_menu >= 0.9
    assert found["2-hop"].on_menu >= 0.75
