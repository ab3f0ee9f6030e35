"""The answers of a question's steps: where they come from, which prompts have them, what they change."""

from __future__ import annotations

from dataclasses import replace

from sim_fakes import FakeBackend, ask, numbered

from zerosearch_env.datasets.world.make import WorldConfig, make_world
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.prompts import STYLES
from zerosearch_env.engines.simulated.sets import SimulationOptions, sought_answers
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question, SearchRequest


def test_the_world_tells_the_steps_of_its_questions() -> None:
    questions = make_world(WorldConfig(passages=400, questions=40)).questions
    for question in questions:
        chain = (question.metadata or {})["chain"]
        assert question.steps == chain[:-1]
        request = Episode(question, make_rules()).advance("<search>who</search>")
        assert isinstance(request, SearchRequest)
        assert request.steps == question.steps
    assert Question("1", "Who?", ("x",)).steps == ()
    assert Question("1", "Who?", ("x",), metadata={"chain": "abc"}).steps == ()
    assert Question("1", "Who?", ("x",), metadata={"chain": ["a", 7, "x"]}).steps == ("a", "7")


def test_the_tiny_prompt_is_short_and_a_noisy_one_tells_nothing() -> None:
    style = STYLES["tiny"]
    told = {"question": "Who taught the author of It?", "answers": ("Ida Holm", "I. Holm"), "steps": ("Bo Ek",)}
    useful = style.render(noisy=False, query="author of It", count=5, **told)
    assert useful == (
        "Question: Who taught the author of It?\nAnswer: Ida Holm | I. Holm\nSteps: Bo Ek\n"
        "Query: author of It\nuseful 5\n"
    )
    noisy = style.render(noisy=True, query="", count=2, **told)
    assert noisy == "Question: Who taught the author of It?\nQuery: ?\nnoisy 2\n"


def test_what_is_sought_is_the_step_behind_the_one_that_the_query_names() -> None:
    request = ask("author of It", steps=("Bo Ek", "Ulm"))
    for query, sought in {
        "author of It": ("Bo Ek",),
        "birthplace of BO EK": ("Ulm",),
        "where was Ek born": ("Ulm",),
        "capital of the region of Ulm": ("Paris", "City of Light"),
        "Ek, Ulm": ("Paris", "City of Light"),
    }.items():
        assert sought_answers(replace(request, query=query)) == sought
    assert sought_answers(replace(request, steps=())) == ("Paris", "City of Light")


def test_a_set_without_it_is_sampled_again() -> None:
    request = ask("author of It", steps=("Bo Ek",))
    written = numbered("It is by Bo Ek.", "b", "c")
    backend = FakeBackend(lambda *_: written)
    engine = SimulatedEngine(backend, options=SimulationOptions(prompt="tiny"))
    engine.search([request])
    assert engine.stats().misses == 0
    assert len(backend.prompts) == 1
    engine.search([replace(request, query="teacher of Ek")])
    assert engine.stats().misses == 1
    assert len(backend.prompts) == 3


def test_searches_with_other_steps_are_other_searches() -> None:
    backend = FakeBackend(lambda *_: numbered("Paris", "b", "c"))
    engine = SimulatedEngine(backend, options=SimulationOptions(prompt="tiny"))
    engine.search([ask(steps=()), ask(steps=("Bo Ek",)), ask(steps=("Bo Ek",))])
    assert len({prompt.text for prompt in backend.prompts}) == 2


def test_the_first_useful_documents_of_the_tiny_style_are_mixed() -> None:
    backend = FakeBackend(lambda *_: numbered("Paris", "b", "c", "d", "e"))
    engine = SimulatedEngine(backend, options=SimulationOptions(prompt="tiny"))
    asked = [ask(seed=seed, top_k=5) for seed in range(60)]
    shown = ["".join(d.text[0] for d in result.documents) for result in engine.search(asked)]
    assert {text[:3] for text in shown} == {"Pbc", "Pcb", "bPc", "bcP", "cPb", "cbP"}
    assert {text[3:] for text in shown} == {"de"}
    assert shown == ["".join(d.text[0] for d in result.documents) for result in engine.search(asked)]
    noisy = engine.search([ask(seed=seed, top_k=5, noisy=True, answers=("x",)) for seed in range(20)])
    assert {"".join(d.text[0] for d in result.documents) for result in noisy} == {"Pbcde"}
