"""The model and the questions of the tests on real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines.simulated.make import TINY_MODEL
from zerosearch_env.types import Dataset


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny simulation LLM, with the chat template that a chat server asks for: the message as it is."""
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path_factory.mktemp("models") / "tiny"))
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return folder


@pytest.fixture(scope="session")
def questions() -> Dataset:
    return load_dataset("world", "test", world=WorldConfig(passages=600))
