from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from zerosearch_agents.runs import checkpoint as module
from zerosearch_agents.runs.checkpoint import (
    RunState,
    checkpoint_paths,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    weights_hash,
)
from zerosearch_env.errors import CheckpointError

STATE = RunState(step=3, metrics_bytes=10, transcripts_bytes=20, initial_policy="abc", seconds=1.5)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"body": torch.full((3, 4), value), "norm": torch.full((4,), value)}


def save(folder, step, keep=2):
    optimizer = {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return save_checkpoint(folder, replace(STATE, step=step), weights(step), optimizer, keep=keep)


def test_what_is_saved_comes_back(tmp_path):
    state, saved, optimizer = load_checkpoint(save(tmp_path, 3))
    assert state == STATE
    assert weights_hash(saved) == weights_hash(weights(3))
    assert optimizer["state"][0]["step"] == 3
    assert optimizer["param_groups"] == [{"lr": 0.1, "params": [0]}]


def test_the_newest_are_kept_and_leftovers_of_killed_saves_removed(tmp_path):
    (tmp_path / ".new-step-000001").mkdir()
    for step in (2, 9, 10, 100):
        save(tmp_path, step)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-000010", "step-000100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010", "step-000100"]
    assert load_latest(tmp_path)[1].step == 100


def test_nothing_saved_is_not_an_error(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "damage", ["no state", "cut state", "cut weights", "no optimizer", "other version", "scrambled"]
)
def test_a_half_written_checkpoint_is_passed_over_or_named(tmp_path, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    state, tensors = path / "state.json", path / "weights.safetensors"
    if damage == "no state":
        state.unlink()
    elif damage == "cut state":
        state.write_text(state.read_text()[:20])
    elif damage == "cut weights":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "no optimizer":
        (path / "optimizer.pt").unlink()
    elif damage == "other version":
        state.write_text(json.dumps(json.loads(state.read_text()) | {"version": 99}))
    else:
        tensors.write_bytes(b"\xff" * tensors.stat().st_size)
    with pytest.raises(CheckpointError, match="step-000002"):
        load_checkpoint(path)
    assert load_latest(tmp_path)[1].step == 1
    (tmp_path / "step-000001" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no valid checkpoint") as error:
        load_latest(tmp_path)
    assert "step-000001" in str(error.value)
    assert "step-000002" in str(error.value)


def test_a_save_that_fails_leaves_the_others_valid(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device\. .*step-000001 is untouched"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert load_latest(tmp_path)[1].step == 1


def test_the_hash_tells_every_bit():
    tiny = weights(1.0)
    tiny["body"][0, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert len({weights_hash(tiny), weights_hash(weights(1.0)), weights_hash({"body": weights(1.0)["body"]})}) == 3
    assert weights_hash(weights(1.0)) == weights_hash(dict(reversed(weights(1.0).items())))
