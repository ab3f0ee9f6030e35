from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from zerosearch_agents.players.base import PolicyOptions
from zerosearch_agents.players.identity import player_identity
from zerosearch_agents.players.policy import PolicyPlayer
from zerosearch_agents.policy.card import AgentCard
from zerosearch_agents.policy.files import stored_weights
from zerosearch_agents.policy.policy import (
    Policy,
    load_policy,
    new_model,
    quiet_transformers,
    save_policy,
    tiny_config,
)
from zerosearch_agents.tiny.tokenizer import build_tokenizer
from zerosearch_env import files as env_files
from zerosearch_env import make_rules
from zerosearch_env.errors import CheckpointError, ConfigError
from zerosearch_env.llm.local import devices

CARD = AgentCard(protocol="search-r1", prompt_template="Q: {question}", turn_tokens=7, context_tokens=99, chat=True)


@pytest.fixture(scope="module")
def policy() -> Policy:
    tokenizer = build_tokenizer(["the author of a book"], 300)
    config = tiny_config(len(tokenizer), hidden=16, layers=2, heads=2, mlp=24, eos_token_id=tokenizer.eos_token_id)
    return Policy(new_model(config, seed=3), tokenizer, CARD)


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> Path:
    return save_policy(policy, tmp_path / "policy")


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    states = left.state_dict(), right.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def data_bytes(directory: Path) -> int:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


def test_a_policy_survives_the_disk(policy: Policy, saved: Path) -> None:
    start = time.process_time()
    loaded = load_policy(saved)
    assert time.process_time() - start < 1.0
    assert same_weights(loaded.model, policy.model)
    assert loaded.card == CARD
    assert loaded.tokenizer.encode("the <search>book</search>") == policy.tokenizer.encode("the <search>book</search>")
    assert not loaded.model.training
    assert sorted(path.name for path in saved.parent.iterdir()) == ["policy"]


def test_default_size() -> None:
    model = new_model(tiny_config(1280))
    assert 0.9e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.1e6
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_new_models_follow_their_seed_and_leave_the_global_generator_alone() -> None:
    config = tiny_config(300, hidden=16, layers=1, heads=2, mlp=16)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = new_model(config, seed=1), new_model(config, seed=1), new_model(config, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_half_precision_on_disk_is_read_into_float32(policy: Policy, tmp_path: Path) -> None:
    small = save_policy(policy, tmp_path / "small", dtype="bfloat16")
    full = save_policy(policy, tmp_path / "full")
    assert data_bytes(small) * 2 == data_bytes(full)
    assert policy.model.dtype == torch.float32
    assert [json.loads((path / "config.json").read_text())["dtype"] for path in (small, full)] == [
        "bfloat16",
        "float32",
    ]
    loaded = load_policy(small)
    assert loaded.model.dtype == torch.float32
    weight = policy.model.get_input_embeddings().weight
    assert torch.equal(loaded.model.get_input_embeddings().weight, weight.bfloat16().float())
    assert load_policy(small, dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("flags", [{"avx2"}, {"avx2", "avx512_bf16"}])
def test_auto_reads_a_checkpoint_as_the_machine_is_fast(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str]
) -> None:
    small, full = save_policy(policy, tmp_path / "small", dtype="bfloat16"), save_policy(policy, tmp_path / "full")
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    assert [stored_weights(folder) for folder in (small, full)] == [("bfloat16", parameters), ("float32", parameters)]
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    devices.inference_dtype.cache_clear()
    assert load_policy(small, dtype="auto").model.dtype == torch.float32  # too small to gain anything
    monkeypatch.setattr(devices, "_SMALL", 1000)
    fast = torch.bfloat16 if "avx512_bf16" in flags else torch.float32
    assert load_policy(small, dtype="auto").model.dtype == fast
    assert load_policy(full, dtype="auto").model.dtype == torch.float32
    player = PolicyPlayer(str(small))
    assert f"torch.{player.dtype}" == str(fast)
    forced = PolicyPlayer(PolicyOptions(str(small), dtype="bfloat16"))
    assert any("is slow on this CPU" in note for note in forced.notes(make_rules())) == (fast == torch.float32)
    chosen = PolicyPlayer(PolicyOptions(str(small), dtype=player.dtype))
    assert player_identity(player) == player_identity(chosen)
    devices.inference_dtype.cache_clear()


def test_any_transformers_directory_is_a_policy_with_the_default_card(policy: Policy, tmp_path: Path) -> None:
    with quiet_transformers():
        policy.model.save_pretrained(tmp_path / "plain")
        policy.tokenizer.save_pretrained(tmp_path / "plain")
    assert load_policy(tmp_path / "plain").card == AgentCard(chat=False)


def test_saving_replaces_what_was_there(policy: Policy, saved: Path) -> None:
    (saved / "stale.txt").write_text("old")
    save_policy(Policy(policy.model, policy.tokenizer), saved)
    assert not (saved / "stale.txt").exists()
    assert load_policy(saved).card == AgentCard(chat=False)


@pytest.mark.parametrize("victim", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved: Path, victim: str) -> None:
    (saved / victim).unlink()
    with pytest.raises(CheckpointError, match=victim):
        load_policy(saved)


@pytest.mark.parametrize("victim", ["config.json", "model.safetensors", "tokenizer.json", "zerosearch.json"])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_cut_off_file_is_a_checkpoint_error(saved: Path, victim: str, kept: float) -> None:
    file = saved / victim
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(CheckpointError):
        load_policy(saved)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no policy directory"):
        load_policy(tmp_path / "nowhere")


def test_weights_of_another_model_are_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    for change in ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, {"intermediate_size": 32}):
        (saved / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError):
            load_policy(saved)


def test_a_tokenizer_of_another_model_is_refused(saved: Path) -> None:
    with quiet_transformers():
        build_tokenizer(["many different words that merge", "into more tokens"], 330).save_pretrained(saved)
    with pytest.raises(CheckpointError, match="belong together"):
        load_policy(saved)


@pytest.mark.parametrize("card", ['{"version": 9}', '{"version": 1, "colour": "red"}', "[]"])
def test_a_wrong_card_is_refused(saved: Path, card: str) -> None:
    (saved / "zerosearch.json").write_text(card)
    with pytest.raises(CheckpointError, match=r"zerosearch\.json"):
        load_policy(saved)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["weights", "first rename", "second rename"])
def test_a_save_killed_at_any_point_leaves_a_whole_policy(
    policy: Policy, saved: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    other = new_model(policy.model.config, seed=8)
    rename, calls = os.rename, []

    def dying_rename(*args: object) -> None:
        calls.append(args)
        if len(calls) == ("first rename", "second rename").index(step) + 1:
            raise Killed
        rename(*args)

    def dying_sync(directory: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "weights":
            patch.setattr(env_files, "sync_tree", dying_sync)
        else:
            patch.setattr(env_files.os, "rename", dying_rename)
        with pytest.raises(Killed):
            save_policy(Policy(other, policy.tokenizer), saved)
    assert same_weights(load_policy(saved).model, policy.model)
    save_policy(Policy(other, policy.tokenizer), saved)
    assert same_weights(load_policy(saved).model, other)
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


def test_a_killed_first_save_leaves_no_policy(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying_sync(directory: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(env_files, "sync_tree", dying_sync)
        with pytest.raises(Killed):
            save_policy(policy, tmp_path / "policy")
    with pytest.raises(CheckpointError, match="no policy directory"):
        load_policy(tmp_path / "policy")


def test_nothing_is_printed(saved: Path, policy: Policy, capfd: pytest.CaptureFixture[str]) -> None:
    verbosity = transformers.utils.logging.get_verbosity()
    save_policy(policy, saved)
    load_policy(saved)
    shutil.rmtree(saved)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert transformers.utils.logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    "options",
    [
        {"vocab_size": 0},
        {"layers": 0},
        {"heads": 4, "kv_heads": 3},
        {"hidden": 10, "heads": 4},
        {"head_dim": 3},
        {"mlp": -1},
    ],
)
def test_sizes_that_cannot_be(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        tiny_config(**({"vocab_size": 300} | options))


def test_unknown_dtype_names_the_nearest(saved: Path) -> None:
    with pytest.raises(ConfigError, match="float32"):
        load_policy(saved, dtype="float3")
