"""Policies that are named as on the Hugging Face Hub, with a fake in place of its download; and what is no policy."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import tiny
from huggingface_hub import errors

from zerosearch_agents.config.train import RolloutConfig
from zerosearch_agents.players.options import PlayConfig
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.policy import files
from zerosearch_agents.policy.files import check_complete, is_hub_name, policy_path
from zerosearch_agents.policy.policy import save_policy
from zerosearch_agents.training.trainer import train
from zerosearch_env import make_rules
from zerosearch_env.errors import CheckpointError, ConfigError, ZeroSearchError


@pytest.fixture(autouse=True)
def _forget_downloads() -> Iterator[None]:
    files._download.cache_clear()
    yield
    files._download.cache_clear()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_policy(tiny.tiny_policy(), tmp_path / "policy")


def fake_hub(monkeypatch: pytest.MonkeyPatch, result: Path | Exception) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_what_is_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "policy").mkdir(parents=True)
    names = ["Qwen/Qwen3-4B", "HuggingFaceTB/SmolLM2-135M-Instruct@v1.0", "a/b@refs/pr/3", "nowhere/policy"]
    others = [
        *("tiny", "runs/policy", "runs/polcy", "./runs/x", "/models/x", "~/x", "../x/y", "runs/x/policy"),
        *("baseline:rag", "file.py:agent", "openai:http://127.0.0.1/v1", "vllm:Qwen/Qwen3-4B", "", "a/", "/b"),
    ]
    assert [is_hub_name(name) for name in names] == [True] * len(names)
    assert [name for name in others if is_hub_name(name)] == []


def test_a_hub_name_is_an_agent_and_the_model_of_baselines(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, saved)
    with contextlib.ExitStack() as stack:
        players = PlayConfig(policy="Org/Base@v2", workers=1).make_players(["Org/Model", "baseline:direct"], stack)
    assert [player.name for player in players] == ["Org/Model", "baseline:direct"]
    assert all(isinstance(player, PolicyPlayer) and player.options.path == str(saved) for player in players)
    assert players[0].notes(make_rules()) == players[1].notes(make_rules())
    assert [(name, options["revision"]) for name, options in calls] == [("Org/Base", "v2"), ("Org/Model", None)]
    assert "*.safetensors" in calls[0][1]["allow_patterns"]
    assert policy_path("Org/Model") == saved
    assert len(calls) == 2  # a command uses one commit


def test_a_hub_name_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.tiny_train_config(tmp_path, steps=1, rollout=RolloutConfig(prompts=2, group_size=2, slots=4))
    calls = fake_hub(monkeypatch, Path(config.policy))
    result = train(replace(config, policy="Org/Model"), dataset=tiny.tiny_dataset())
    assert (result.step, len(calls)) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            errors.GatedRepoError,
            r"Org/Model .* is gated: ask for access at https://huggingface\.co/Org/Model",
        ),
        (
            errors.RepositoryNotFoundError,
            r"no model Org/Model on the Hugging Face Hub, and no folder",
        ),
        (errors.RevisionNotFoundError, r"Org/Model on the Hugging Face Hub has no branch, tag or commit 'v9'"),
        (errors.HfHubHTTPError, r"the hub cannot be reached \(HfHubHTTPError: busy\).*`hf download Org/Model`"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    fake_hub(monkeypatch, kind("busy", response=SimpleNamespace(headers={}, request=None)))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=message):
        policy_path("Org/Model@v9")


def test_offline_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"neither a folder nor in the local cache.*HF_HUB_OFFLINE is set"):
        policy_path("Org/Model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertModel"]}, "is not a causal language model: its config.json says BertModel"),
        ({"architectures": ["BertForMaskedLM"]}, "its config.json says BertForMaskedLM"),
        ({"is_encoder_decoder": True}, "is not a causal language model"),
        ({"architectures": None}, None),
        ({"architectures": ["GPT2LMHeadModel"]}, None),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, None),
    ],
)
def test_another_kind_of_model_is_named_before_it_is_loaded(
    saved: Path, change: dict[str, Any], message: str | None
) -> None:
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    if message is None:
        check_complete(saved)
        return
    with pytest.raises(CheckpointError, match=message), contextlib.ExitStack() as stack:
        PlayConfig(workers=1).make_players([f"mine={saved}"], stack)


def test_a_model_without_a_tokenizer_is_named_before_anything_is_played(saved: Path) -> None:
    (saved / "tokenizer.json").unlink()
    with (
        pytest.raises(ZeroSearchError, match=r"tokenizer\.json missing\. Copy"),
        contextlib.ExitStack() as stack,
    ):
        PlayConfig(workers=1).make_players([str(saved)], stack)
