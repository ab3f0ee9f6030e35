"""Which player a spec of a built-in player makes, with which model."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from test_endpoint import server
from tiny import tiny_policy

from zerosearch_agents.players.base import PolicyOptions
from zerosearch_agents.players.builtin.make import BASELINES, WITH_MODEL
from zerosearch_agents.players.builtin.own_format import DirectPlayer, OwnQueryRagPlayer, RagPlayer
from zerosearch_agents.players.builtin.plans import PLANS
from zerosearch_agents.players.builtin.prompted import PromptedPlayer
from zerosearch_agents.players.identity import player_identity
from zerosearch_agents.players.make import make_player
from zerosearch_agents.players.options import PlayConfig
from zerosearch_agents.policy.card import CARD_FILE
from zerosearch_agents.policy.policy import save_policy
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import ConfigError, ZeroSearchError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm import TransformersBackend, VLLMBackend
from zerosearch_env.types import Question


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_policy(tiny_policy(), tmp_path_factory.mktemp("trained") / "policy"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_policy(tiny_policy(), tmp_path_factory.mktemp("untrained") / "policy")
    (folder / CARD_FILE).unlink()
    return str(folder)


def players(policy: str, *agents: str, **options: Any) -> list[Any]:
    with contextlib.ExitStack() as stack:
        return PlayConfig(policy=policy, workers=1, **options).make_players(agents, stack)


def test_a_trained_policy_plays_in_its_own_format(trained: str) -> None:
    made = players(trained, "baseline:direct", "baseline:rag", "baseline:rag-own", "baseline:cot")
    assert [type(player) for player in made] == [DirectPlayer, RagPlayer, OwnQueryRagPlayer, PromptedPlayer]


def test_a_model_without_a_card_is_asked_in_plain_words_unless_it_has_a_protocol(untrained: str) -> None:
    made = players(untrained, "baseline:direct", "baseline:rag", "own=baseline:rag,protocol=search-r1")
    assert [type(player) for player in made] == [PromptedPlayer, PromptedPlayer, RagPlayer]
    assert made[0].name == "baseline:direct"
    (own,) = players(f"{untrained},protocol=search-r1", "baseline:rag")
    assert type(own) is RagPlayer
    assert own.rules_for(make_rules()).protocol.name == "search-r1"


def test_players_of_the_same_model_load_it_once(untrained: str) -> None:
    one, two = players(untrained, "baseline:cot", "baseline:vote")
    assert isinstance(one.backend, TransformersBackend)
    assert one.backend is two.backend
    assert one.backend.closed  # with the command
    (three,) = players(untrained, "baseline:cot")
    assert three.backend is not one.backend


def test_options_of_the_command_the_model_and_the_player(untrained: str) -> None:
    examples = "Question: a\nAnswer: b"
    one, two = players(
        f"{untrained},top_k=2,temperature=0.5",
        "baseline:vote",
        f'two=baseline:vote,top_k=4,turn_tokens=7,"few_shot={examples}"',
        max_turns=3,
        system="Be brief.",
    )
    rules = make_rules(max_turns=3)
    assert [player.rules_for(rules).top_k for player in (one, two)] == [2, 4]
    assert [player.rules_for(rules).max_turns for player in (one, two)] == [1, 1]
    assert [player.rules_for(rules).few_shot for player in (one, two)] == ["", examples]
    assert [player.options.turn_tokens for player in (one, two)] == [None, 7]
    assert [player.options.temperature for player in (one, two)] == [0.5, 0.5]
    assert [player.options.system for player in (one, two)] == ["Be brief.", "Be brief."]


def test_vllm_in_this_process() -> None:
    (player,) = players("vllm:org/model", "baseline:rag")
    assert isinstance(player.backend, VLLMBackend)
    assert player.backend.model == "org/model"


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_model_behind_an_endpoint_plays(name: str) -> None:
    with server(lambda _: r"\boxed{Ann}" if name == "search-o1" else "Answer: Ann") as (url, calls):
        if name not in PLANS:
            with pytest.raises(ConfigError, match="own format of a policy"):
                players(f"openai:{url}", f"baseline:{name}")
            return
        source = f"vllm:{url}#tokenizer" if name == "rag" else f"openai:{url}"
        player = make_player(f"baseline:{name},thinking=off", policy=PolicyOptions(source))
        assert isinstance(player, PromptedPlayer)
        with contextlib.closing(player):
            record = player_identity(player, rules=make_rules())
            episode = Episode(Question("q", "Who?", ("Ann",)), player.rules_for(make_rules()))
            player.play([episode], ConstantEngine())
    assert json.loads(record[f"the model of the agent baseline:{name}"]) == {"id": "m", "root": "org/m"}
    assert episode.scores is not None
    assert episode.scores.em == 1
    assert all(call.body["chat_template_kwargs"]["enable_thinking"] is False for call in calls)
    assert calls[0].body["messages"][0]["content"].endswith(("Question: Who?\nAnswer:", "Reasoning:", "Who?\n"))


def test_a_server_that_is_not_there_is_an_error_before_anything_is_played() -> None:
    with pytest.raises(ConfigError, match="no model can be asked at"):
        players("openai:http://127.0.0.1:9/v1", "baseline:rag")


def test_identity_depends_on_the_model_the_plan_and_the_options(trained: str, untrained: str) -> None:
    one, two = players(untrained, "x=baseline:vote", "y=baseline:cot")
    (three,) = players(untrained, "x=baseline:vote", temperature=0.5)
    records = [
        tuple(value for key, value in player_identity(player).items() if "code" not in key)
        for player in (one, two, three)
    ]
    assert len(set(records)) == 3
    (again,) = players(untrained, "x=baseline:vote")
    assert player_identity(again) == player_identity(one)


def test_identity_depends_on_how_an_endpoint_is_asked() -> None:
    with server() as (url, _):
        records = []
        for option in ("", ",thinking=off", ",chat=off"):
            player = make_player(f"x=baseline:cot{option}", policy=PolicyOptions(f"openai:{url}"))
            assert isinstance(player, PromptedPlayer)
            with contextlib.closing(player):
                records.append(tuple(player_identity(player).values()))
    assert len(set(records)) == 3


@pytest.mark.parametrize(
    ("policy", "agent", "message"),
    [
        ("{untrained}", "baseline:vite", "vote"),
        ("{untrained}", "baseline:cot,prefill=x", "prefill has no effect on baseline:cot"),
        ("{untrained}", "baseline:rag,chat=off", "chat has no effect on baseline:rag"),
        ("{untrained},prompt_template=a {{question}}", "baseline:rag", "prompt_template has no effect"),
        ("{untrained}", "baseline:random,top_k=2", "top_k is not an option of baseline:random"),
        ("{untrained}/none", "baseline:cot", "none"),
        ("openai:http://h/v1,cache=x.sqlite", "baseline:cot", "cache is not an option of baseline:cot"),
    ],
)
def test_bad_input(untrained: str, policy: str, agent: str, message: str) -> None:
    with pytest.raises(ZeroSearchError, match=message):
        players(policy.format(untrained=untrained), agent)


def test_the_names() -> None:
    assert (
        *("direct", "rag", "rag-own", "cot", "iterative-rag", "vote", "search-o1"),
        *("random", "oracle"),
    ) == BASELINES


def test_notes_say_how_the_model_is_asked(untrained: str) -> None:
    one, two = players(untrained, "baseline:direct", "baseline:search-o1")
    rules = make_rules(prompt_template="a {question}")
    assert one.notes(rules)[0].endswith("no search.")
    assert one.notes(rules)[1].endswith("prompt_template has no effect on it.")
    assert two.notes(make_rules())[0].endswith("at most 5 searches.")
    assert Path(untrained).is_dir()
