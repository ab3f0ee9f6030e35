"""Protocols made of another one with `dataclasses.replace`: they work, or are refused before the first turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import pytest

from zerosearch_env.errors import ConfigError
from zerosearch_env.game.rules import make_rules
from zerosearch_env.protocols import PROTOCOLS, get_protocol
from zerosearch_env.protocols.tags import answer_action, make_grammar, parse_tags, query_action, render_element

NAMES = sorted(PROTOCOLS)
FIND = partial(render_element, "<find>", "</find>")
FIND_PARSE = partial(
    parse_tags,
    make_grammar({"search": ("<find>", "</find>"), "answer": ("<answer>", "</answer>")}),
    {"search": query_action, "answer": answer_action},
)
FIND_PROMPT = "Write <find>query</find> or <answer>answer</answer>. {question}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"render_search": FIND}, r"parse reads '<find>words</find>', .* as 'invalid' instead of 'search'"),
        ({"parse": FIND_PARSE}, r"parse reads '<search>words</search>'"),
        ({"stop_strings": ("</find>", "</answer>")}, r"stops at '</find>', but no action ends with it"),
        ({"stop_strings": ("<search>",)}, r"parse reads '<search>', the turn that render_search writes, as 'invalid'"),
        ({"stop_strings": "</search>"}, r"must be a tuple of non-empty strings, got '</search>'"),
        ({"prompt_template": "Write <find>query</find>. {question}"}, r"shows </find>, but .*'own' reads .*<search>"),
        ({"render_answer": lambda answer: f"{answer}!"}, "as 'invalid' instead of 'answer'"),
    ],
)
@pytest.mark.parametrize("make", [make_rules, partial(gym.make, "ZeroSearch-v0", world={"passages": 400})])
def test_a_protocol_in_which_every_turn_would_be_invalid_is_refused(
    make: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    own = replace(get_protocol("zerosearch"), name="own", **changes)
    with pytest.raises(ConfigError, match=message):
        make(protocol=own)


def test_a_protocol_whose_parts_are_replaced_together_works() -> None:
    own = replace(
        get_protocol("zerosearch"),
        name="own",
        parse=FIND_PARSE,
        render_search=FIND,
        stop_strings=("</find>", "</answer>"),
        prompt_template=FIND_PROMPT,
    )
    env = gym.make("ZeroSearch-v0", protocol=own, world={"passages": 400})
    env.reset(seed=0)
    assert env.step("<find>oldest bridge</find>")[4]["action"] == "search"


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_other_protocols_are_refused_only_if_no_tag_agrees(name: str) -> None:
    assert make_rules(protocol=name, prompt_template="Think in <think></think>. {question}").max_turns
    prompts = {other: get_protocol(other).prompt_template for other in NAMES}
    assert make_rules(protocol=name, prompt_template=prompts[name]).max_turns
    if name == "hermes":
        with pytest.raises(ConfigError, match="prompt shows"):
            make_rules(protocol=name, prompt_template=prompts["zerosearch"])
