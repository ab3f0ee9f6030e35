"""The examples run, stay short, and show what they say they show."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import tiny_policy

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_agents.policy.policy import save_policy
from zerosearch_env import make_engine, make_rules
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import registry
from zerosearch_env.types import Dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LONGEST = {"training_loop.py": 200, "environment_factory.py": 100}  # the second teaches a policy to call tools


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def small_world(name: str, split: str) -> Dataset:
    """The dataset of that name, which is "world", with 300 passages."""
    return load_dataset(name, split, world=WorldConfig(passages=300, questions=100))


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST.get(path.name, 60)


@pytest.mark.slow
def test_the_environment_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("play_environment")
    assert example.one_episode(noise_level=0.0) in (0.0, 1.0)
    assert example.many_episodes() > 0.1
    assert "<information>" in capsys.readouterr().out


@pytest.mark.slow
def test_the_agent_visibly_loses_accuracy_with_noise() -> None:
    em = load("my_agent").main(questions=120)
    assert em[0.0] > 0.3
    assert em[0.0] > em[0.5] + 0.1
    assert em[0.5] > em[1.0]


def test_the_agent_of_the_readme_loses_accuracy_too() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
    (block,) = (part for part in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "def agent(" in part)
    names: dict[str, Any] = {}
    exec(block, names)
    data = small_world("world", "test")
    player, engine = CallablePlayer(names["agent"]), make_engine("corpus", dataset=data)
    result = evaluate(player, data.questions[:100], engine, make_rules(), [0.0, 1.0])
    em = [cell.summary().em.mean for cell in result.cells]
    assert em[0] > 0.05
    assert em[0] > em[1]


def test_the_engine_passes_the_conformance_suite_and_plays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    example = load("my_engine")
    monkeypatch.setattr(example, "load_dataset", small_world)
    example.main()
    assert "Doc 1" in capsys.readouterr().out


@pytest.mark.slow
def test_the_seed_question_is_asked_in_three_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("seed_question")
    played = example.main(str(save_policy(tiny_policy(context_tokens=512), tmp_path / "policy")))
    assert list(played) == list(example.WAYS)
    assert all(episode.done for episode in played.values())
    memory, search = (played[way].turns for way in ("from memory", "with one search"))
    assert search[0].step.action == "search"
    assert search[0].step.answer_in_documents
    assert all(turn.step.action != "search" for turn in memory)
    assert "--- with one search" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_training_loop_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("training_loop")
    monkeypatch.setattr(example, "load_dataset", small_world)
    monkeypatch.setattr(example, "CONTEXT_TOKENS", 800)
    (row,) = example.train(steps=1, questions=1, group_size=2)
    assert row["step"] == 1
    assert 0 <= row["reward"] <= 1


def test_the_training_loop_differentiates_sampled_tokens_alone() -> None:
    """Uniform logits over V tokens: log p = -log V, and only the tokens with mask 1 count."""
    example = load("training_loop")
    bias = torch.zeros(5, requires_grad=True)

    def model(input_ids: torch.Tensor) -> object:
        return type("Output", (), {"logits": bias.expand(1, input_ids.shape[1], 5)})

    right = example.Rollout([0, 1, 2, 3], [0, 1, 0, 1], reward=1.0)
    wrong = example.Rollout([0, 4, 4], [0, 0, 1], reward=0.0)
    loss = example.grpo_loss(model, [[right, wrong]])
    advantage = 0.5 / 0.5**0.5  # rewards 1 and 0: mean 1/2, unbiased standard deviation sqrt(1/2)
    log5 = float(torch.log(torch.tensor(5.0)))
    assert loss.item() == pytest.approx((2 * advantage - advantage) * log5 / 3)
    loss.backward()
    # d/db_j of -sum A log p_t / n = sum A (p_j - [t = j]) / n over sampled tokens 1, 3 (A > 0) and 4 (A < 0)
    counts = torch.tensor([0.0, 1.0, 0.0, 1.0, -1.0])
    torch.testing.assert_close(bias.grad, advantage * (0.2 * 1 - counts) / 3)
    assert example.grpo_loss(model, [[right, right]]) is None


@pytest.mark.slow
def test_an_agent_of_stable_baselines3_is_trained_and_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sb3_contrib")
    example = load("menu_agent")
    monkeypatch.setattr(example, "load_dataset", small_world)
    monkeypatch.setattr(example, "make_vec_env", lambda count, **given: make_small(2, **given))
    assert set(example.main(steps=256, questions=5, file=str(tmp_path / "agent.zip"))) == {0.0, 0.5, 0.75}


def make_small(count: int, **arguments: Any) -> Any:
    """Few environments over a small world."""
    from zerosearch_env.integrations.sb3 import make_vec_env

    return make_vec_env(count, world={"passages": 300, "questions": 100}, **arguments)
