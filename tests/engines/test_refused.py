"""Where an engine is made and then refused, it is closed: it may hold servers, files or threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from zerosearch_env.errors import ZeroSearchError
from zerosearch_env.serve.command import ServeConfig, make_service

ENGINE = '''
from pathlib import Path
from zerosearch_env import Document, SearchResult
from zerosearch_env.engines.base import BatchedEngine
from zerosearch_env.errors import EngineError


class Engine(BatchedEngine):
    """Says that it was closed, in a file."""

    def search(self, requests):
        return [SearchResult((Document("a", "b"),)) for _ in requests]

    def try_out(self, questions, top_k):
        if {fails}:
            raise EngineError("out of order")

    def close(self):
        Path({closed!r}).touch()
'''


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """The path of the mark that the engine was closed, and a maker of its spec."""
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": "Who wrote Emma?", "answer": "Jane Austen"}) + "\n")
    closed = tmp_path / "closed"

    def spec(*, fails: bool = False) -> str:
        path = tmp_path / f"engine_{fails}.py"
        path.write_text(ENGINE.format(fails=fails, closed=str(closed)))
        return f"{path}:Engine"

    return closed, spec, str(tmp_path / "one.jsonl")


def test_by_an_environment(files: Any) -> None:
    closed, spec, questions = files
    with pytest.raises(ZeroSearchError, match="counterfactual"):
        gym.make("ZeroSearch-v0", search_engine=spec(), dataset=questions, noise_level=0.5, noise_kind="counterfactual")
    assert closed.exists()


def test_by_a_server(files: Any) -> None:
    closed, spec, _ = files
    with pytest.raises(ZeroSearchError, match="counterfactual"):
        make_service(ServeConfig(engine=spec(), dataset=None, noise_kind=("counterfactual",)))
    assert closed.exists()


def test_by_an_mcp_server(files: Any) -> None:
    pytest.importorskip("mcp")
    from zerosearch_env.commands.mcp import MCPConfig, make_game

    closed, spec, questions = files
    with pytest.raises(ZeroSearchError, match="out of order"):
        make_game(MCPConfig(engine=spec(fails=True), dataset=questions, question="0"))
    assert closed.exists()


def test_by_a_training_run(files: Any, tmp_path: Path) -> None:
    from zerosearch_agents.config.train import DataConfig, EnvironmentConfig, TrainConfig
    from zerosearch_agents.training.trainer import train

    closed, spec, questions = files
    config = TrainConfig(
        output=str(tmp_path / "run"),
        steps=1,
        workers=1,
        data=DataConfig(dataset=questions),
        environment=EnvironmentConfig(search_engine=spec(fails=True)),
    )
    with pytest.raises(ZeroSearchError, match="out of order"):
        train(config)
    assert closed.exists()
