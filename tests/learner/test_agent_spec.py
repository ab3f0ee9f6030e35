from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from zerosearch_agents.players.base import PolicyOptions
from zerosearch_agents.players.make import make_player
from zerosearch_agents.players.options import PlayConfig
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.players.spec import AgentSpec, parse_agent, source_kind
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.rules import make_rules

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("tiny", AgentSpec("tiny", "tiny")),
        ("before=tiny", AgentSpec("before", "tiny")),
        ("runs/x/policy,temperature=1", AgentSpec("runs/x/policy", "runs/x/policy", sampling={"temperature": 1.0})),
        ("tiny,chat=off,tools=on", AgentSpec("tiny", "tiny", {"chat": "off", "tools": True})),
        ("tiny,chat=auto,max-turns=3", AgentSpec("tiny", "tiny", {"chat": "auto", "max_turns": 3})),
        (
            f"big=openai:{URL},http://b:1/v1#Qwen/Qwen3-8B,top_p=0.9,api_key_env=KEY",
            AgentSpec("big", f"openai:{URL},http://b:1/v1#Qwen/Qwen3-8B", {}, {"top_p": 0.9}, {"api_key_env": "KEY"}),
        ),
        (
            f"openai:{URL},chat=on,http://b/v1",
            AgentSpec(f"openai:{URL},http://b/v1", f"openai:{URL},http://b/v1", {"chat": "on"}),
        ),
        ("openai:http://a/v1,http://b/v1?x=1", AgentSpec(*["openai:http://a/v1,http://b/v1?x=1"] * 2)),
        (
            'a=tiny,"system=Be brief, and search.",prefill=<think>',
            AgentSpec("a", "tiny", {"system": "Be brief, and search.", "prefill": "<think>"}),
        ),
        ('tiny,"system=two\nlines"', AgentSpec("tiny", "tiny", {"system": "two\nlines"})),
        ("tiny,prompt_template=Find: {question}=", AgentSpec("tiny", "tiny", {"prompt_template": "Find: {question}="})),
    ],
)
def test_parts_of_a_spec(spec: str, expected: AgentSpec) -> None:
    assert parse_agent(spec) == expected


def test_a_folder_keeps_its_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_agent("a,b,max_turns=2") == AgentSpec("a,b", "a,b", {"max_turns": 2})


def test_a_prompt_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Answer, please: {question}\n")
    assert parse_agent(f"tiny,prompt_template={file}").card == {"prompt_template": "Answer, please: {question}\n"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tiny,temprature=1", r"unknown option 'temprature'. Did you mean 'temperature'\?"),
        (f"openai:{URL},max-turn=1", r"unknown option 'max-turn'. Did you mean 'max_turns'\?"),
        ("tiny,max_turns=many", "max_turns must be a whole number, got 'many'"),
        ("tiny,tools=maybe", "tools must be on or off, got 'maybe'"),
        ("tiny,chat=maybe", "chat must be on, off or auto, got 'maybe'"),
        ("tiny,temperature=hot", "temperature must be a number, got 'hot'"),
        ("tiny,top_k=1,top_k=2", "top_k is given twice"),
        ("tiny,system=Be brief, and search", "' and search' is neither an option .* A value that contains a comma is"),
        ("tiny,prompt_template=no mark", "prompt_template must contain {question}"),
        ('tiny,"system=open', "the quotation marks do not match"),
        ("openai:http://me:secret-password@h/v1,x=1", "agent 'openai:http://\\*\\*\\*@h/v1,x=1': unknown option 'x'"),
        ("", "agent '': expected"),
        ("mine=", "agent 'mine=': expected"),
    ],
)
def test_wrong_specs_say_what_is_expected(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_agent(spec)


def test_names_hold_no_credentials() -> None:
    spec = parse_agent("openai:http://me:secret-password@host/v1")
    assert spec.label == "openai:http://***@host/v1"
    assert spec.source == "openai:http://me:secret-password@host/v1"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("tiny", "tiny"),
        ("folder", "folder"),
        ("./folder", "folder"),
        ("baseline:rag", "baseline"),
        (f"openai:{URL}#m", "openai"),
        (f"vllm:{URL}", "vllm"),
        ("vllm:Qwen/Qwen3-8B", "vllm"),
        ("my_agent.py:agent", "code"),
        ("package.module:agent", "code"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "hub"),
        ("ORG/NAME@v1.0", "hub"),
        ("folder/missing", "unknown"),
        ("runs/quickstart/policy", "unknown"),
        ("agents/mine.py", "unknown"),
        ("nothing", "unknown"),
    ],
)
def test_kinds_of_sources(source: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert source_kind(source) == kind


def test_options_reach_the_policy_and_the_model_of_the_baselines() -> None:
    config = PlayConfig(policy="tiny,turn_tokens=9", temperature=0.5, max_turns=4, workers=1)
    agents = ["tiny", "own=tiny,temperature=1,max_turns=2,protocol=search-r1,context_tokens=99", "baseline:rag"]
    with contextlib.ExitStack() as stack:
        plain, own, rag = config.make_players(
            [
                *agents,
            ],
            stack,
        )
    assert all(isinstance(player, PolicyPlayer) for player in (plain, own, rag))
    rules = config.make_rules()
    assert (plain.options.temperature, plain.options.turn_tokens, plain.rules_for(rules).max_turns) == (0.5, None, 4)
    assert (own.options.temperature, own.rules_for(rules).max_turns, own.card.context_tokens) == (1.0, 2, 99)
    assert own.rules_for(rules).protocol.name == "search-r1"
    assert (rag.options.turn_tokens, rag.options.path) == (9, plain.options.path)


def test_options_without_effect_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def agent(observation, info):\n    return '<answer>a</answer>'\n")
    monkeypatch.chdir(tmp_path)
    policy = PolicyOptions("unused")
    player = make_player("mine.py:agent,max_turns=2", policy=policy)
    assert player.rules_for(make_rules()).max_turns == 2
    with pytest.raises(
        ConfigError, match=r"temperature is not an option of mine.py:agent; its options are: protocol, "
    ):
        make_player("mine.py:agent,temperature=1", policy=policy)
    with pytest.raises(ConfigError, match="top_k is not an option of baseline:random; its options are: none"):
        make_player("baseline:random,top_k=1", policy=policy)
    with pytest.raises(ConfigError, match="api_key_env is not an option of tiny"):
        make_player("tiny,api_key_env=KEY", policy=policy)
