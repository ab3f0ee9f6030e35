"""`--push-to-hub`: refused before anything is trained if it cannot work, and never in the way of saving."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import tiny
from huggingface_hub import errors

from zerosearch_agents.policy.hub import check_push, push_policy
from zerosearch_agents.policy.policy import load_policy
from zerosearch_agents.sft import policy as sft_policy
from zerosearch_agents.sft.cli import main as sft_main
from zerosearch_agents.training import trainer
from zerosearch_agents.training.cli import main
from zerosearch_env.errors import CheckpointError, ConfigError

USER = {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": "write"}}}
COUNTS = ("train_episodes", "episode_tokens", "trained_tokens", "held_out_episodes", "steps", "seconds")
FIGURES = {**dict.fromkeys(COUNTS, 1), "stopped": "finished"}


class FakeHub:
    """In place of `HfApi`: who is logged in, and what is uploaded; either may be an exception instead."""

    def __init__(self, user: dict[str, Any] | Exception, failure: Exception | None = None) -> None:
        self.user = user
        self.failure = failure
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def whoami(self) -> dict[str, Any]:
        if isinstance(self.user, Exception):
            raise self.user
        return self.user

    def create_repo(self, name: str, **options: Any) -> huggingface_hub.RepoUrl:
        self.calls.append((name, options))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name if '/' in name else f'me/{name}'}")

    def upload_folder(self, **options: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(USER)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return fake


def refusal(kind: type[Exception]) -> Exception:
    return kind("busy", response=SimpleNamespace(headers={}, request=None))  # type: ignore[call-arg]


def test_names_that_may_be_pushed(hub: FakeHub) -> None:
    for name in (None, "model", "me/model", "lab/model-2.1"):
        check_push(name)
    hub.user = {"name": "me"}  # a token of an older kind says no more
    check_push("me/model")


@pytest.mark.parametrize(
    ("name", "user", "message"),
    [
        ("a/b/c", USER, "push_to_hub must be ORG/NAME or NAME, got 'a/b/c'"),
        ("./runs", USER, "must be ORG/NAME or NAME"),
        ("", USER, "must be ORG/NAME or NAME"),
        ("other/model", USER, "me is logged in, who is not other and not a member.* Push to me/model"),
        ("model", {**USER, "auth": {"accessToken": {"role": "read"}}}, "the token of me may only read; run `hf auth"),
        ("model", errors.LocalTokenNotFoundError("x"), "no one is logged in .*; run `hf auth login`, or set HF_TOKEN"),
        ("model", refusal(errors.HfHubHTTPError), "does not say who is logged in: HfHubHTTPError: busy"),
    ],
)
def test_what_cannot_be_pushed_is_an_error_before_anything_is_trained(
    hub: FakeHub, name: str, user: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "train", lambda *args, **options: pytest.fail("it trained"))
    hub.user = user
    with pytest.raises(ConfigError, match=message):
        main(["--push-to-hub", name, "--output", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_asks_first_too(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sft_policy, "run_sft", lambda *args, **options: {**FIGURES, "seconds": 1.0, "stopped": "finished"}
    )
    options = ["--policy", "tiny", "--input", "demos.jsonl", "--output", str(tmp_path), "--push-to-hub"]
    assert sft_main([*options, "me/model"]) == 0
    assert hub.calls[1][1]["folder_path"] == tmp_path / "policy"
    monkeypatch.setattr(sft_policy, "run_sft", lambda *args, **options: pytest.fail("it trained"))
    with pytest.raises(ConfigError, match="me is logged in"):
        sft_main([*options, "other/model"])


def test_offline_nothing_can_be_pushed(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        check_push("model")


def test_a_folder_is_pushed_as_one_commit_to_a_private_repository(hub: FakeHub, tmp_path: Path) -> None:
    assert push_policy(tmp_path, "model") == "https://huggingface.co/me/model"
    (name, repository), (_, upload) = hub.calls
    assert (name, repository) == ("model", {"private": True, "exist_ok": True})
    assert (upload["repo_id"], upload["folder_path"]) == ("me/model", tmp_path)


def test_an_interrupted_training_pushes_nothing(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = trainer.TrainResult(tmp_path, tiny.tiny_policy(), 1, "interrupt", 1.0, 0)
    monkeypatch.setattr(trainer, "train", lambda *args, **options: stopped)
    (tmp_path / "metrics.jsonl").touch()
    assert main(["--push-to-hub", "model", "--output", str(tmp_path)]) == 130
    assert hub.calls == []


@pytest.mark.slow
def test_a_training_pushes_what_it_has_saved(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.tiny_train_config(tmp_path, steps=1)
    arguments = ["--policy", config.policy, "--output", config.output, "--steps", "1", "--workers", "1"]
    arguments += ["--rollout.prompts", "2", "--rollout.group-size", "2", "--push-to-hub", "me/model"]
    arguments += ["--evaluation.every", "1", "--evaluation.questions", "2", "--evaluation.noise", "0", "0.5"]
    train = trainer.train
    monkeypatch.setattr(trainer, "train", lambda *args, **options: train(*args, dataset=tiny.tiny_dataset(), **options))
    assert main(arguments) == 0
    assert hub.calls[1][1]["folder_path"] == Path(config.output) / "best"
    assert "pushed to    https://huggingface.co/me/model" in capsys.readouterr().out
    card = (Path(config.output) / "policy" / "README.md").read_text("utf-8")
    assert "| Steps | 1 |" in card
    assert re.search(r"\| Held-out questions \| 2 \|\n\| Exact match, noise 0 \| [01](\.5)? \|\n", card)
    assert "| Searches per episode, noise 0.5 |" in card

    hub.failure = refusal(errors.HfHubHTTPError)
    message = rf"the policy is saved in .*best, but could not be pushed: .*: hf upload me/model {config.output}"
    with pytest.raises(CheckpointError, match=message):
        main([*arguments, "--overwrite"])
    load_policy(Path(config.output) / "policy")
