"""Kinds of noise that a simulation LLM writes itself: prompts, checks, cache keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sim_fakes import FakeBackend, ask, numbered, passage

from zerosearch_env.engines import engine_parts
from zerosearch_env.engines.kinds.engine import KindsEngine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.prompts import STYLES, WRITTEN_KINDS
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of
from zerosearch_env.game.noise_kinds import KINDS, read_noise_kinds
from zerosearch_env.types import Question, SearchRequest

QUESTIONS = [
    Question(city, f"What is the capital of {country}?", (city,))
    for city, country in {"Paris": "France", "Rome": "Italy", "Oslo": "Norway", "Bern": "Switzerland"}.items()
]
ALL = read_noise_kinds([kind for kind in KINDS if kind != "distractor"])


def made_with(write: object = None, **options: object) -> tuple[KindsEngine, FakeBackend]:
    backend = FakeBackend(write)  # type: ignore[arg-type]
    simulated = SimulatedEngine(backend, options=SimulationOptions(**options))  # type: ignore[arg-type]
    return KindsEngine(simulated, ALL, QUESTIONS), backend


def request(kind: str, **changes: object) -> SearchRequest:
    return ask(noisy=True, noise_kind=kind, episode_seed=3, answers=("Paris",), **changes)


@pytest.mark.parametrize("style", ["tuned", "few-shot"])
def test_counterfactual_documents_are_asked_for_with_the_wrong_answer(style: str) -> None:
    engine, backend = made_with(prompt=style)
    (result,) = engine.search([request("counterfactual")])
    (prompt,) = backend.prompts
    (wrong,) = result.wrong_answers
    assert wrong in ("Rome", "Oslo", "Bern")
    assert "Paris" not in prompt.text
    assert f"Answers to that question: {wrong}\n" in prompt.text
    assert "Kind: counterfactual\n" in prompt.text
    assert all(wrong in document.text for document in result.documents)
    assert engine.stats().noisy_documents == 3  # type: ignore[union-attr]


def test_incomplete_documents_are_asked_for_without_the_answer() -> None:
    engine, backend = made_with(prompt="few-shot")
    (result,) = engine.search([request("incomplete")])
    assert "Answers to that question: withheld\n" in backend.prompts[0].text.rpartition("### Task")[2]
    assert backend.prompts[0].text.endswith("Kind: incomplete\nNumber: 3\n### Documents\n")
    assert len(result.documents) == 3
    assert "Paris" not in backend.prompts[0].text


def test_what_the_model_does_not_follow_is_corrected() -> None:
    engine, _ = made_with(lambda *_: numbered("The capital is Paris", "b", "c"), miss_resamples=0)
    (result,) = engine.search([request("counterfactual")])
    (wrong,) = result.wrong_answers
    assert result.documents[0].text == passage(f"The capital is {wrong}")
    (result,) = engine.search([request("incomplete")])
    assert all("Paris" not in document.text for document in result.documents)
    assert len(result.documents) == 3


def test_slots_without_noise_have_useful_documents() -> None:
    engine, backend = made_with()
    for kind in WRITTEN_KINDS:
        (result,) = engine.search([request(kind)])
        (masked,) = engine.search([replace(request(kind), noisy=(True, False, True))])
        (useful,) = engine.search([replace(request(kind), noisy=False)])
        assert masked.documents == (result.documents[0], useful.documents[1], result.documents[2])
    assert all(prompt.text.count("### Task") == 1 for prompt in backend.prompts)


def test_the_prompts_of_before_and_their_keys_are_unchanged(tmp_path: Path) -> None:
    for name, style in STYLES.items():
        for noisy in (False, True):
            values = {"noisy": noisy, "question": "q", "answers": ("a",), "query": "x", "count": 2, "steps": ("s",)}
            assert style.render(**values) == style.render(**values, noise_kind="")  # type: ignore[arg-type]
            assert prompt_of(ask(noise_kind="empty"), noisy, SimulationOptions(prompt=name)) == prompt_of(
                ask(), noisy, SimulationOptions(prompt=name)
            )
    engine = SimulatedEngine(FakeBackend(), cache=str(tmp_path / "cache.sqlite"))
    requests = [ask(noisy=True, noise_kind=kind) for kind in ("distractor", "garbled", *WRITTEN_KINDS)]
    keys = [engine._key(request, True, kind) for request, kind in zip(requests, ("", "", *WRITTEN_KINDS), strict=True)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    engine.search(requests)
    assert engine.stats().cache_misses == 3
    engine.search(requests)
    assert engine.stats().cache_hits == 3
    engine.close()


def test_models_with_another_prompt_write_no_kinds() -> None:
    for prompt in ("tiny", "{kind}: {query} {answers}"):
        engine, backend = made_with(lambda *_: numbered("The capital is Paris", "b", "c"), prompt=prompt)
        assert engine_parts(engine.engine).written_kinds == ()
        (result,) = engine.search([request("counterfactual")])
        (wrong,) = result.wrong_answers
        assert passage(f"The capital is {wrong}") in [document.text for document in result.documents]
        assert all("useful" in prompt.text and wrong not in prompt.text for prompt in backend.prompts)
    assert engine_parts(SimulatedEngine(FakeBackend())).written_kinds == WRITTEN_KINDS
