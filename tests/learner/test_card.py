"""The card of a policy: what it may hold, how it and the options of a command decide the rules and the limits."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from chat_templates import family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.config.agent import FORMAT_OPTIONS, RULE_OPTIONS
from zerosearch_agents.config.train import EnvironmentConfig, TrainConfig, parse_config
from zerosearch_agents.plan.estimate import context_tokens
from zerosearch_agents.players.base import PolicyOptions
from zerosearch_agents.players.options import PlayConfig
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.policy.card import (
    AgentCard,
    card_rules,
    card_values,
    changed_card,
    decide_chat,
    model_context,
    read_card,
    searches_that_fit,
    token_limits,
    trained_card,
)
from zerosearch_agents.policy.files import policy_path
from zerosearch_agents.policy.policy import tiny_config
from zerosearch_env import make_rules
from zerosearch_env.command_line import read_options
from zerosearch_env.errors import CheckpointError, ConfigError
from zerosearch_env.protocols import PROTOCOLS

NAMES = st.sampled_from(sorted(PROTOCOLS))
COUNTS = st.none() | st.integers(1, 10_000)
SMOLLM2, GEMMA3 = family_tokenizer("smollm2"), family_tokenizer("gemma3")


def write(folder: Path, **values: object) -> Path:
    (folder / "zerosearch.json").write_text(json.dumps(values))
    return folder


@settings(max_examples=25)
@given(
    st.builds(
        AgentCard,
        protocol=st.none() | NAMES,
        prompt_template=st.none() | st.just("dataset") | st.text(max_size=9).map("{question}".__add__),
        turn_tokens=COUNTS,
        context_tokens=COUNTS,
        max_turns=COUNTS,
        top_k=COUNTS,
        chat=st.sampled_from([True, None]),
        system=st.none() | st.text(max_size=9),
        thinking=st.none() | st.booleans(),
        tools=st.booleans(),
        prefill=st.text(max_size=9),
        max_observation_tokens=COUNTS,
        invalid_notice=st.sampled_from(["own", "reference", "none", "Once more.\n"]),
        last_turn_notice=st.sampled_from(["own", "reference", "none", "Answer now.\n"]),
        few_shot=st.none() | st.just("Question: a\n<answer>b</answer>"),
    )
)
def test_every_card_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, card: AgentCard) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "zerosearch.json").write_text(json.dumps(card_values(card)))
    assert read_card(folder) == card
    decided = decide_chat(card, SMOLLM2)
    assert decided == replace(card, chat=True)
    assert asdict(decided.format) == {entry.name: getattr(decided, entry.name) for entry in fields(decided.format)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top-k": 3}, r"unknown field of the card 'top-k'\. Did you mean 'top_k'\?"),
        ({"contextTokens": 3}, r"Did you mean 'context_tokens'\?"),
        ({"protocol": "searchr1"}, r"unknown protocol 'searchr1'\. Did you mean 'search-r1'\?"),
        ({"protocol": "mine.py:PROTOCOL"}, r"unknown protocol 'mine\.py:PROTOCOL'"),
        ({"protocol": 3}, "protocol must be a string or null, got 3"),
        ({"chat": "yes"}, "chat must be true or false or null, got 'yes'"),
        ({"thinking": 1}, "thinking must be true or false or null, got 1"),
        ({"tools": None}, "tools must be true or false, got None"),
        ({"prefill": None}, "prefill must be a string, got None"),
        ({"system": ["a"]}, "system must be a string or null"),
        ({"turn_tokens": 0}, "turn_tokens must be a whole number of at least 1, got 0"),
        ({"max_turns": 2.5}, "max_turns must be a whole number of at least 1, got 2.5"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"max_observation_tokens": "500"}, "max_observation_tokens must be a whole number"),
        ({"prompt_template": "prompts/mine.txt"}, "prompt_template must contain {question}.*not the name of a file"),
        ({"invalid_notice": "refrence"}, r"Did you mean 'reference'\?"),
        ({"version": 2}, "has version 2"),
    ],
)
def test_a_wrong_card_says_where_and_why(tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read_card(write(tmp_path, **values))
    assert str(tmp_path / "zerosearch.json") in str(error.value)


def test_a_folder_without_a_card(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None


def test_the_shipped_policy_states_its_limits() -> None:
    card = read_card(policy_path("tiny"))
    assert card == AgentCard("zerosearch", "Question: {question}\n", turn_tokens=64, context_tokens=2048, chat=False)
    rules = card_rules(make_rules(), card)
    assert (rules.protocol.name, rules.max_turns, rules.top_k) == ("zerosearch", 5, 5)
    assert token_limits(card, rules.protocol, 4096) == (64, 2048)


@given(NAMES, st.none() | NAMES, COUNTS, COUNTS, COUNTS, COUNTS)
def test_what_was_given_precedes_the_card_and_the_card_the_protocol(
    own: str, other: str | None, max_turns: int | None, top_k: int | None, card_turns: int | None, card_k: int | None
) -> None:
    given_rules = make_rules(protocol=other, max_turns=max_turns, top_k=top_k, reward="f1", noise_unit="document")
    card = AgentCard(own, max_turns=card_turns, top_k=card_k)
    rules, protocol = card_rules(given_rules, card), PROTOCOLS[other or own]
    assert rules.protocol is protocol
    assert rules.max_turns == (max_turns or card_turns or protocol.max_turns)
    assert rules.top_k == (top_k or card_k or protocol.top_k)
    assert rules.prompt_template == protocol.prompt_template
    assert (rules.invalid_notice, rules.last_turn_notice) == (protocol.invalid_notice, protocol.last_turn_notice)
    assert (rules.reward, rules.noise_unit) == (given_rules.reward, given_rules.noise_unit)
    assert card_rules(rules, card) == rules
    assert card_rules(given_rules, AgentCard()) == given_rules  # a card that says nothing changes nothing


@given(NAMES, COUNTS, COUNTS, st.none() | st.integers(1, 50_000))
def test_limits_are_the_protocols_unless_given_and_never_above_the_model(
    name: str, turn: int | None, context: int | None, longest: int | None
) -> None:
    protocol = PROTOCOLS[name]
    limits = token_limits(AgentCard(turn_tokens=turn, context_tokens=context), protocol, longest)
    assert limits.context_tokens == min(context or min(protocol.context_tokens, 4096), longest or math.inf)
    assert limits.turn_tokens == min(turn or protocol.turn_tokens, limits.context_tokens)


def test_notices_of_the_card_and_of_the_caller() -> None:
    card = AgentCard("r1-searcher", invalid_notice="reference", last_turn_notice="none")
    rules = card_rules(make_rules(), card)
    assert (rules.invalid_notice, rules.last_turn_notice) == (None, "")
    rules = card_rules(make_rules(invalid_notice="Once more.\n", last_turn_notice="own"), card)
    assert (rules.invalid_notice, rules.last_turn_notice) == (
        "Once more.\n",
        PROTOCOLS["r1-searcher"].last_turn_notice,
    )


def test_the_models_own_context() -> None:
    assert model_context(tiny_config(300, hidden=16, layers=1, heads=2, mlp=16, context_tokens=99)) == 99


def test_a_prompt_that_was_given_must_fit_the_protocol_of_the_card() -> None:
    rules = make_rules(prompt_template="Write <search>words</search>. {question}")
    with pytest.raises(ConfigError, match="every turn of a policy that follows it would be invalid"):
        card_rules(rules, AgentCard("r1-searcher"))


def folder(path: Path, *, card: dict[str, object] | None, template: str | None = "", context: int = 4096) -> Path:
    """The small files of a policy directory; `template` "" is SmolLM2's."""
    tokenizer = family_tokenizer("smollm2")
    tokenizer.chat_template = tokenizer.chat_template if template == "" else template
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    if card is not None:
        write(path, **card)
    return path


def test_a_chat_model_without_a_card_says_what_is_assumed(tmp_path: Path) -> None:
    player = PolicyPlayer(folder(tmp_path / "model", card=None))
    note, searches = player.notes(make_rules())
    assert player.card.chat is True
    assert "model: 4096 tokens hold 2 of 5 searches if every turn takes 500 tokens" in searches
    assert "5 passages of real text, about 164 tokens each. Raise context_tokens, or set max_obs" in searches
    assert "has no card (zerosearch.json): it plays protocol 'zerosearch' with the chat template of its tok" in note
    assert "5 turns that may search, 5 documents per search, 500 tokens per turn and 4096 per episode" in note
    assert "\n" not in note
    options = PolicyOptions(str(tmp_path / "model"), turn_tokens=7, context_tokens=4000, format=(("chat", "off"),))
    (note,) = PolicyPlayer(options).notes(make_rules(protocol="search-r1", max_turns=2))
    assert (
        "protocol 'search-r1' with plain prompts (chat off), 2 turns that may search, 3 documents per search, 7 tokens"
        in note
    )


@given(st.integers(1, 900), st.none() | st.integers(1, 900), st.integers(1, 9), st.integers(1, 9))
def test_what_fits_is_counted_from_the_largest_turns(turn: int, cut: int | None, turns: int, top_k: int) -> None:
    rules = make_rules(prompt_template="{question}", max_turns=turns, top_k=top_k)
    limits = token_limits(AgentCard(turn_tokens=turn), rules.protocol)
    count = searches_that_fit(AgentCard(max_observation_tokens=cut), rules, limits)
    search = turn + min(cut or 4096, 164 * top_k)
    assert count == turns or 32 + (count + 1) * search + turn > 4096
    assert count == 0 or 32 + count * search + turn <= 4096


def test_worked_examples_of_the_command_precede_those_of_the_card(tmp_path: Path) -> None:
    file = tmp_path / "shots.txt"
    file.write_text("Question: c\n<answer>d</answer>\n")
    card = AgentCard(few_shot="Question: a\n<answer>b</answer>")
    assert card_rules(make_rules(), card).few_shot == card.few_shot
    rules = card_rules(make_rules(few_shot=str(file)), card)
    assert rules.few_shot == "Question: c\n<answer>d</answer>"
    assert trained_card(card, rules).few_shot == rules.few_shot


def test_a_plain_model_without_a_card_says_so_and_a_card_says_nothing(tmp_path: Path) -> None:
    plain = PolicyPlayer(folder(tmp_path / "plain", card=None, template=None))
    assert plain.card.chat is False
    assert "with plain prompts (chat off)" in plain.notes(make_rules())[0]
    own = PolicyPlayer(folder(tmp_path / "card", card={"context_tokens": 500}))
    assert (own.notes(make_rules()), own.card.chat) == ([], True)


@pytest.mark.parametrize(("chat", "decided"), [(None, True), ("auto", True), ("on", True), ("off", False)])
@pytest.mark.parametrize("on_card", [None, True, False])
def test_the_option_decides_about_chat_before_the_card(chat: str | None, decided: bool, on_card: bool | None) -> None:
    card = decide_chat(changed_card(AgentCard(chat=on_card), {"chat": chat}), GEMMA3)
    assert card.chat is (on_card if chat is None and on_card is not None else decided)


def test_auto_is_off_where_a_template_cannot_show_an_episode() -> None:
    tokenizer = family_tokenizer("smollm2")
    tokenizer.chat_template = "{{ raise_exception('one message') if messages | length > 1 else messages[0].content }}"
    assert decide_chat(AgentCard(), tokenizer).chat is False
    assert decide_chat(AgentCard(chat=True), tokenizer).chat is True  # the encoder says why it cannot
    with pytest.raises(ConfigError, match="system = 'Be short' needs chat = true"):
        decide_chat(AgentCard(system="Be short"), tokenizer)
    with pytest.raises(ConfigError, match=r"unknown chat 'of'\. Did you mean 'off'\?"):
        changed_card(AgentCard(), {"chat": "of"})


def test_the_models_shorter_context_and_another_protocol_are_said(tmp_path: Path) -> None:
    player = PolicyPlayer(folder(tmp_path / "short", card={"protocol": "deepresearcher"}, context=1024))
    protocol, context, searches = player.notes(make_rules(protocol="hermes"))
    assert "1024 tokens hold 0 of" in searches
    assert "its card says protocol 'deepresearcher'; it plays 'hermes', as asked" in protocol
    assert "at most 1024 tokens, the model's own context, instead of 4096" in context
    assert len(player.notes(make_rules())) == 2  # no one asked for another protocol


def test_what_one_agent_is_given_precedes_what_all_are_given(tmp_path: Path) -> None:
    command = PolicyOptions(
        temperature=0.5, path=str(folder(tmp_path / "own", card={"top_k": 9, "context_tokens": 500}))
    )
    player = PolicyPlayer(
        command.changed({"protocol": "hermes", "max_turns": 7, "chat": "off", "turn_tokens": 9, "temperature": 0.25})
    )
    rules = player.rules_for(make_rules(protocol="search-r1", max_turns=2, top_k=1))
    assert (rules.protocol.name, rules.max_turns, rules.top_k) == ("hermes", 7, 1)
    assert (player.card.chat, player.card.turn_tokens, player.options.temperature) == (False, 9, 0.25)
    assert player.notes(make_rules(protocol="search-r1")) == []
    assert command.changed({}) == command


def test_agents_of_two_protocols_have_their_own_limits(tmp_path: Path) -> None:
    config = PlayConfig(protocol="search-r1")
    rules = config.make_rules()
    bare = PolicyPlayer(folder(tmp_path / "bare", card=None))
    own = PolicyPlayer(folder(tmp_path / "own", card={"protocol": "r1-searcher"}))
    limits = [(r.protocol.name, r.max_turns, r.top_k) for r in (bare.rules_for(rules), own.rules_for(rules))]
    assert limits == [("search-r1", 4, 3)] * 2
    assert own.rules_for(make_rules()).max_turns == 8
    asked = PlayConfig(max_turns=2, top_k=1, last_turn_notice="none").make_rules()
    assert [(r.max_turns, r.top_k) for r in (bare.rules_for(asked), own.rules_for(asked))] == [(2, 1)] * 2
    assert own.rules_for(asked).last_turn_notice == ""


def test_options_of_a_command_reach_the_format() -> None:
    config = read_options(
        PlayConfig,
        [
            *("--chat", "on", "--system", "", "--thinking", "False", "--prefill", "<think>", "--tools", "False"),
            *("--max-observation-tokens", "500", "--invalid-notice", "none", "--prompt-template", "dataset"),
        ],
        "zerosearch eval",
    )
    options = PolicyOptions("x", format=tuple(config.given(FORMAT_OPTIONS).items()))
    card = PolicyPlayer(options).card
    assert card == AgentCard(
        chat=True, system="", thinking=False, prefill="<think>", tools=False, max_observation_tokens=500
    )
    assert config.given(RULE_OPTIONS) == {"invalid_notice": "none", "prompt_template": "dataset"}
    assert set(RULE_OPTIONS + FORMAT_OPTIONS) < {entry.name for entry in fields(AgentCard)}


def test_a_trained_policy_keeps_what_it_was_trained_with(tmp_path: Path) -> None:
    template = tmp_path / "prompt.txt"
    template.write_text("Asked: {question}")
    rules = make_rules(prompt_template=str(template), max_turns=2, invalid_notice="reference")
    card = trained_card(AgentCard(turn_tokens=9), card_rules(rules, AgentCard(turn_tokens=9)))
    assert card == AgentCard("zerosearch", "Asked: {question}", 9, max_turns=2, invalid_notice="reference")
    shipped = read_card(policy_path("tiny"))
    assert shipped is not None
    assert trained_card(shipped, card_rules(make_rules(), shipped)) == shipped


def test_a_plan_has_the_limits_of_the_card_or_the_protocol() -> None:
    assert context_tokens(TrainConfig()) == 2048
    assert context_tokens(TrainConfig(policy="/nowhere/Qwen2.5-3B")) == 4096
    environment = EnvironmentConfig(protocol="deepresearcher")
    assert context_tokens(TrainConfig(policy="/nowhere/Qwen2.5-3B", environment=environment)) == 4096


def test_a_recorded_protocol_that_names_code_must_be_typed() -> None:
    text = '[environment]\nprotocol = "mine.py:PROTOCOL"\nmax_turns = 5\n'
    with pytest.raises(
        ConfigError, match=r"environment\.protocol names code.*--environment\.protocol mine\.py:PROTOCOL"
    ):
        parse_config(text)
    assert parse_config(text, typed=["mine.py:PROTOCOL"]).environment.max_turns == 5
