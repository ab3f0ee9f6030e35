"""The cards on the pages of published families: they load, and their limits are those of the restated loops."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from published_loops import LOOPS

from zerosearch_agents.policy.card import CARD_FILE, AgentCard, card_rules, read_card
from zerosearch_env import get_protocol, make_rules
from zerosearch_env.types import Question

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "families").glob("*.md"))
PUBLISHED = [page for page in PAGES if page.stem != "qwen3"]


def card_of(page: Path, folder: Path) -> AgentCard:
    """The card on a page, read as `zerosearch eval` reads it."""
    (block,) = re.findall(r"```json\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (folder / CARD_FILE).write_text(block, "utf-8")
    card = read_card(folder)
    assert card is not None
    assert set(json.loads(block)) >= {"protocol", "chat", "turn_tokens", "context_tokens", "max_turns", "top_k"}
    return card


def test_every_family_has_a_page() -> None:
    families = {"zerosearch", "search-r1", "r1-searcher", "research", "recall", "deepresearcher", "qwen3"}
    assert {page.stem for page in PAGES} == families


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_to_bring_how_to_evaluate_and_what_differs(page: Path, tmp_path: Path) -> None:
    assert re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE) == [
        "What you bring",
        "Evaluate",
        "What differs, and why",
    ]
    assert "zerosearch eval --agent CHECKPOINT" in page.read_text("utf-8")
    card_of(page, tmp_path)


@pytest.mark.parametrize("page", PUBLISHED, ids=lambda page: page.stem)
def test_a_card_has_the_published_limits_and_notices(page: Path, tmp_path: Path) -> None:
    card = card_of(page, tmp_path)
    rules = card_rules(make_rules(), card)
    protocol, loop = get_protocol(card.protocol or ""), LOOPS[card.protocol or ""]
    assert (rules.protocol, rules.top_k) == (protocol, loop.top_k)
    assert rules.max_turns == min(loop.turns, 16)
    assert (card.turn_tokens, card.context_tokens) == (protocol.turn_tokens, protocol.context_tokens)
    assert rules.invalid_notice == protocol.reference_invalid_notice
    assert rules.last_turn_notice == ""
    assert card.max_observation_tokens == {"search-r1": 500, "zerosearch": 2048}.get(page.stem)


@pytest.mark.parametrize("page", PUBLISHED, ids=lambda page: page.stem)
def test_a_card_asks_with_the_words_of_the_user(page: Path, tmp_path: Path) -> None:
    """Every card leaves the wording of the prompt to the user or the data; none sends this package's own."""
    card = card_of(page, tmp_path)
    own = get_protocol(card.protocol or "").prompt_template
    rules = card_rules(make_rules(), card)
    assert rules.prompt_template != own
    question = Question("q", "Who?", ("a",), prompt=({"role": "user", "content": "As asked: Who?"},))
    assert card.prompt_template == "dataset" or "Who?" in question.text.join(rules.prompt_pieces)
