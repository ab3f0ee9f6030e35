from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from zerosearch_env.datasets import load_dataset
from zerosearch_env.errors import DataError, MissingExtraError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stand-in for the `datasets` library; returns its calls."""
    made: list[tuple[Any, ...]] = []

    def load(path: str, name: str | None = None, *, split: str) -> list[dict[str, Any]]:
        made.append((path, name, split))
        if path == "nobody/nothing":
            raise FileNotFoundError("no such dataset")
        return [{"question": f"q{i}", "answer": ["a"]} for i in range(3)]

    module = ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return made


def test_a_name_with_a_slash_is_looked_up_on_the_hub(calls: list[tuple[Any, ...]]) -> None:
    data = load_dataset("google-research-datasets/nq_open", "validation", limit=2)
    assert calls == [("google-research-datasets/nq_open", None, "validation")]
    assert [question.text for question in data.questions] == ["q0", "q1"]
    assert (data.name, data.split) == ("google-research-datasets/nq_open", "validation")
    assert data.questions[0].id == "google-research-datasets/nq_open-1"


def test_a_configuration_follows_a_colon(calls: list[tuple[Any, ...]]) -> None:
    load_dataset("RUC-NLPIR/FlashRAG_datasets:nq", "dev")
    assert calls == [("RUC-NLPIR/FlashRAG_datasets", "nq", "dev")]


@pytest.mark.usefixtures("calls")
def test_what_the_hub_says_is_passed_on() -> None:
    with pytest.raises(
        DataError, match=r"'nobody/nothing' is neither a built-in dataset nor a file.*no such dataset"
    ) as caught:
        load_dataset("nobody/nothing")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_without_the_library_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "zerosearch-env\[hub\]"'):
        load_dataset("owner/name")


def test_parquet_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r'pip install "zerosearch-env\[hub\]"'):
        load_dataset(tmp_path / "x.parquet")
