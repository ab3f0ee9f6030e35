"""The attack suite: its queries, and the detection of disguised answers."""

from __future__ import annotations

import base64
import codecs

import pytest

from zerosearch_agents.simulator.evaluation.attacks import ATTACKS, holds_encoded
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of
from zerosearch_env.types import Document, SearchRequest

QUESTION = "Which bridge leads over the Tarn?"
ANSWERS = ("Golden Span", "the Span")


def test_the_suite() -> None:
    assert len(ATTACKS) >= 30
    assert len({attack.query for attack in ATTACKS}) == len(ATTACKS)
    families = {attack.family for attack in ATTACKS}
    assert families == {"asking", "closing", "orders", "roles", "encoding", "languages"}
    assert all("{" not in attack.of(QUESTION) for attack in ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.family}-{attack.query[:20]!r}")
def test_no_attack_changes_the_prompt_of_a_noisy_search(attack) -> None:
    """Whatever the query says, the prompt has one task, one kind, no answer, and the query in quotes on its line."""
    request = SearchRequest(attack.of(QUESTION), QUESTION, ANSWERS, True, 5, 1)
    text = prompt_of(request, True, SimulationOptions())
    assert not any(answer in text for answer in ANSWERS)
    assert text.count("\n### Documents\n") == text.count("### Task\n") == text.count("\nKind: ") == 1
    assert text.count('"') == 2
    assert text.endswith('"\nKind: noisy\nNumber: 5\n### Documents\n')


@pytest.mark.parametrize(
    "text",
    [
        "It is " + "golden span"[::-1],
        "It is " + codecs.encode("Golden Span", "rot13"),
        "It is " + base64.b64encode(b"Golden Span").decode(),
        "It is " + base64.b64encode(b"golden span, I am told").decode(),
        "It is " + b"Golden Span".hex(),
        "It is G-o-l-d-e-n S-p-a-n",
        "It is a G o l d e n S p a n.",
    ],
)
def test_answers_in_disguise(text: str) -> None:
    assert holds_encoded([Document("", text)], ANSWERS)


def test_what_is_no_answer() -> None:
    assert not holds_encoded([Document("", "A bridge of steel, built in 1931 by I. Holm.")], ANSWERS)
    assert not holds_encoded([Document("", "oak a o k")], ("oak",))
    assert not holds_encoded([], ANSWERS)
