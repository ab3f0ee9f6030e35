"""vLLM as the sampler of a policy: the same turns as in this process, on servers that speak vLLM's JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_vllm import FakeVLLM
from tiny import tiny_dataset, tiny_policy

from zerosearch_agents.players.base import AgentOptions, PolicyOptions
from zerosearch_agents.players.identity import player_identity
from zerosearch_agents.players.make import make_player
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.players.vllm import VLLMPlayer
from zerosearch_agents.policy.policy import Policy, save_policy
from zerosearch_agents.sampling.engine import TurnLimits
from zerosearch_agents.sampling.vllm import local
from zerosearch_agents.sampling.vllm.local import VLLMEngine
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import AgentError, CheckpointError, ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.randomness import mix

OPTIONS = PolicyOptions("unused", turn_tokens=12, dtype="float32")
RULES = make_rules(max_turns=2, top_k=1)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


@pytest.fixture(scope="module")
def folder(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(policy, tmp_path_factory.mktemp("vllm") / "policy")


@pytest.fixture
def server(policy: Policy, folder: Path) -> Iterator[FakeVLLM]:
    fake = FakeVLLM(policy)
    fake.routes = False  # no VLLM_SERVER_DEV_MODE
    fake.listed = {"id": "policy", "root": str(folder), "max_model_len": 300, "created": 7}
    with fake:
        yield fake


def make(spec: str, options: PolicyOptions = OPTIONS, **third_party: float) -> VLLMPlayer:
    player = make_player(f"it=vllm:{spec}", policy=options, third_party=AgentOptions(**third_party))
    assert isinstance(player, VLLMPlayer)
    return player


def texts(player: PolicyPlayer, count: int = 3) -> list[str]:
    rules = player.rules_for(RULES)
    questions = tiny_dataset().questions[:count]
    played = [Episode(q, rules, noise_level=0.5, seed=mix(0, i)) for i, q in enumerate(questions)]
    done: list[int] = []
    player.play(played, CorpusEngine(tiny_dataset().passages), done.append)
    assert sorted(done) == list(range(count))
    return [episode.text for episode in played]


def test_turns_are_those_of_this_process(server: FakeVLLM, folder: Path) -> None:
    player = make(server.root)
    with contextlib.closing(player):
        assert texts(player) == texts(PolicyPlayer(replace(OPTIONS, path=str(folder))))
    assert player.options.path == str(folder)
    assert set(server.paths) == {"/v1/models", "/v1/completions"}
    body = server.bodies[0]
    assert all(type(token) is int for token in body["prompt"])
    assert (body["temperature"], body["include_stop_str_in_output"]) == (0.0, True)


def test_sampling_and_limits_reach_the_server(server: FakeVLLM) -> None:
    player = make(f"{server.root}/v1,temperature=0.7,top_p=0.9,turn_tokens=5")
    with contextlib.closing(player):
        texts(player, 1)
        sampler = player.make_sampler(1, RULES.protocol)
    assert sampler.context_tokens == 300  # the server's own
    assert {(b["temperature"], b["top_p"], b["max_tokens"]) for b in server.bodies} == {(0.7, 0.9, 5)}


def test_the_tokenizer_can_be_named(server: FakeVLLM, folder: Path) -> None:
    server.listed = {"id": "served-name", "root": "/models/elsewhere"}
    with pytest.raises(ConfigError, match=r"serves a model from '/models/elsewhere'.*vllm:URL#TOKENIZER"):
        make(server.root)
    player = make(f"{server.root}#{folder}")
    assert player.options.path == str(folder)


def test_another_model_on_the_server_is_noticed(server: FakeVLLM) -> None:
    first = player_identity(make(server.root))
    assert first == player_identity(make(server.root, replace(OPTIONS, slots=3)))
    server.listed |= {"id": "other"}
    assert first != player_identity(make(server.root))


def test_a_server_that_fails_ends_the_evaluation(server: FakeVLLM) -> None:
    player = make(server.root, turn_timeout_s=0.5)
    server.fail = 500
    with contextlib.closing(player), pytest.raises(AgentError, match="agent 'it': the sampler failed: POST"):
        texts(player, 1)


def test_a_server_that_is_not_there(policy: Policy) -> None:
    with FakeVLLM(policy) as gone:
        root = gone.root
    with pytest.raises(ConfigError, match="agent 'it': no model can be asked at http"):
        make(root)


class _LLM:
    """The part of `vllm.LLM` that starts."""

    def __init__(self, path: str, **arguments: object) -> None:
        self.path, self.arguments, self.llm_engine = path, arguments, None


def test_an_engine_in_this_process_keeps_the_weights_of_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type("vllm", (), {"LLM": _LLM})
    monkeypatch.setattr(local, "require", lambda name: module)
    player = make(str(folder), replace(OPTIONS, dtype="auto", context_tokens=200))
    player.check()
    engine = player.make_sampler(4, RULES.protocol).engine
    assert isinstance(engine, VLLMEngine)
    assert engine._llm.path == str(folder)
    assert engine._llm.arguments["dtype"] == "auto"
    assert (engine._llm.arguments["max_model_len"], engine._llm.arguments["max_num_seqs"]) == (200, 64)
    assert "gpu_memory_utilization" not in engine._llm.arguments
    assert player.make_sampler(4, RULES.protocol).engine is engine
    assert isinstance(player.make_sampler(1, RULES.protocol, ("x",)).engine, VLLMEngine)
    assert list(player._engines) == [TurnLimits(("x",), engine._limits.end_ids, 0.0)]
    with pytest.raises(CheckpointError, match="no policy directory"):
        make(str(tmp_path / "none")).check()
