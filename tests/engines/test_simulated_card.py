"""The card in a simulation LLM's folder: the engine asks with the prompt that the model was tuned with."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from sim_fakes import FakeBackend

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_env.engines.simulated.card import CARD_FILE, SimulatorCard, read_card
from zerosearch_env.engines.simulated.make import TINY_MODEL
from zerosearch_env.engines.simulated.prompts import STYLES
from zerosearch_env.errors import CheckpointError
from zerosearch_env.llm import make

CARD = SimulatorCard("few-shot-1", 5, "a-base", "0" * 64)
VALUES = {"version": 1, **asdict(CARD)}


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """What the engine loads instead of a model."""
    fake = FakeBackend(lambda *_: "Doc 1: a text.")
    monkeypatch.setattr(make, "TransformersBackend", lambda *_, **__: fake)
    return fake


def prompt_of(search_engine: Any, backend: FakeBackend) -> tuple[str, float]:
    """The first prompt that an environment sends to the model, and its temperature."""
    env = gym.make("ZeroSearch-v0", search_engine=search_engine)
    env.reset(seed=0)
    env.step("<search>a query</search>")
    env.close()
    return backend.prompts[0].text, backend.prompts[0].temperature


def test_the_environment_uses_the_prompt_of_the_folder(tmp_path: Path, backend: FakeBackend) -> None:
    CARD.write(tmp_path)
    assert read_card(tmp_path) == CARD
    text, temperature = prompt_of(f"simulated:hf:{tmp_path}", backend)
    assert "Two examples come first." in text
    assert temperature == 0.8


def test_the_option_prompt_wins_even_over_a_card_that_cannot_be_read(tmp_path: Path, backend: FakeBackend) -> None:
    (tmp_path / CARD_FILE).write_text("{")
    spec = {"kind": "simulated", "argument": f"hf:{tmp_path}", "prompt": "tiny"}
    text, temperature = prompt_of(spec, backend)
    assert text.startswith("Question: ")
    assert temperature == 0.65


def test_a_folder_without_a_card(tmp_path: Path, backend: FakeBackend) -> None:
    assert read_card(tmp_path) is None
    assert "Two examples" not in prompt_of(f"simulated:hf:{tmp_path}", backend)[0]


def test_the_shipped_model_has_a_card(backend: FakeBackend) -> None:
    card = read_card(TINY_MODEL)
    assert card is not None
    assert card.prompt == "tiny"
    text, temperature = prompt_of("simulated:tiny", backend)
    assert text.startswith("Question: ")
    assert temperature == 0.65


def test_every_style_has_its_own_id() -> None:
    assert {SimulatorCard(style.id, 1, "").prompt for style in STYLES.values()} == set(STYLES)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "it has version None"),
        ('{"version": 2, "steps": 3}', "it has version 2, and this release reads version 1"),
        ('{"version": 1, "prompt": "x"}', "expected the fields .*, got {'prompt': 'x'}"),
        (json.dumps(VALUES | {"max_documents": "5"}), "expected the fields .*'max_documents': '5'"),
        (json.dumps(VALUES | {"prompt_id": "tuned-9"}), "Did you mean 'tuned-1'"),
    ],
)
def test_a_card_that_cannot_be_used(tmp_path: Path, card: str, message: str) -> None:
    (tmp_path / CARD_FILE).write_text(card)
    with pytest.raises(CheckpointError, match=message) as caught:
        gym.make("ZeroSearch-v0", search_engine=f"simulated:hf:{tmp_path}")
    assert str(tmp_path / CARD_FILE) in str(caught.value)
    assert re.search(r"[^.]\. To load the model anyway, set the engine's option `prompt`\.$", str(caught.value))
