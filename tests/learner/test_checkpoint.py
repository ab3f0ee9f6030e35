from __future__ import annotations

import json
import os
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
from zerosearch_env.identity import file_hash

STATE = RunState(step=3, metrics_bytes=10, transcripts_bytes=20, initial_policy="abc", seconds=1.5)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"body": torch.full((3, 4), value), "norm": torch.full((4,), value)}


def save(folder, step, keep=2):
    optimizer = {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return save_checkpoint(folder, replace(STATE, step=step), weights(float(step)), optimizer, keep=keep)


def test_what_is_saved_comes_back(tmp_path):
    state, saved, optimizer = load_checkpoint(save(tmp_path, 3))
    assert state == STATE
    assert weights_hash(saved) == weights_hash(weights(3.0))
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


def flip(file, position):
    """Flips one bit of a file, as a failing disk does."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def nan_weights(path):
    """Weights that are not numbers, with the right hashes."""
    files = {name: file_hash(path / name) for name in ("weights.safetensors", "optimizer.pt")}
    tensors = path / "weights.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8] + b"\xff" * 8)
    state = module.checkpoint_state(path)
    module.write_state(path, state, files | {tensors.name: file_hash(tensors)})


DAMAGES = {
    "no state": lambda path: (path / "state.json").unlink(),
    "cut state": lambda path: os.truncate(path / "state.json", 20),
    "zeroed state": lambda path: (path / "state.json").write_bytes(bytes(200)),
    "a list as state": lambda path: (path / "state.json").write_text("[]"),
    "a state without files": lambda path: rewrite(path, lambda record: record.pop("files")),
    "another step": lambda path: rewrite(path, lambda record: record.update(step=1)),
    "another version": lambda path: rewrite(path, lambda record: record.update(version=99)),
    "cut weights": lambda path: os.truncate(
        path / "weights.safetensors", (path / "weights.safetensors").stat().st_size - 4
    ),
    "a flipped bit in the weights": lambda path: flip(path / "weights.safetensors", -3),
    "a flipped bit in the optimizer": lambda path: flip(path / "optimizer.pt", -200),
    "zeroed weights": lambda path: (path / "weights.safetensors").write_bytes(
        (path / "weights.safetensors").read_bytes()[:-16] + bytes(16)
    ),
    "NaN weights": nan_weights,
    "no optimizer": lambda path: (path / "optimizer.pt").unlink(),
    "a folder as optimizer": lambda path: ((path / "optimizer.pt").unlink(), (path / "optimizer.pt").mkdir()),
}


def rewrite(path, change):
    record = json.loads((path / "state.json").read_text())
    change(record)
    (path / "state.json").write_text(json.dumps(record))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_or_named(tmp_path, damage, caplog):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    DAMAGES[damage](path)
    with pytest.raises(CheckpointError, match="step-000002"):
        load_checkpoint(path)
    assert load_latest(tmp_path)[1].step == 1
    (line,) = caplog.messages
    assert "step-000002" in line
    assert line.endswith(f"The newest good checkpoint is used: {tmp_path / 'step-000001'}.")
    assert "\n" not in line
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
