"""Prompts in the rows of a dataset: kept by the readers, and played exactly with `prompt_template="dataset"`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import zerosearch_env  # noqa: F401  (registers the environment)
from zerosearch_env import ConstantEngine, Episode, load_dataset, make_rules
from zerosearch_env.datasets.files import tables
from zerosearch_env.datasets.files.tables import TableQuestions
from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.identity import dataset_identity
from zerosearch_env.types import Question

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Use <search>. Question: who?\n"}]
SEARCH_R1 = {
    "id": "test_0",
    "question": "who?",
    "golden_answers": ["Ada"],
    "data_source": "nq",
    "prompt": MESSAGES[1:],
    "ability": "fact-reasoning",
    "reward_model": {"ground_truth": {"target": ["Ada"]}, "style": "rule"},
    "extra_info": {"index": 0, "split": "test"},
}
RESEARCH = {
    "data_source": "research",
    "prompt": MESSAGES,
    "reward_model": {"ground_truth": {"target": "Ada"}},
    "extra_info": {"id": "2hop__1", "question": "who?", "tool": {"env": "import json"}},
}
DEEPRESEARCHER = {
    "data_source": "hotpotqa",
    "prompt": MESSAGES,
    "question": "who?",
    "reward_model": {"ground_truth": "Ada<|answer_split|>Ada L."},
    "extra_info": {"index": 3, "split": "dev", "question": "who?"},
}


@pytest.mark.parametrize("row", [SEARCH_R1, RESEARCH, DEEPRESEARCHER])
@pytest.mark.parametrize("form", [dict, lambda row: row | {"prompt": np.array(row["prompt"], dtype=object)}, "packed"])
def test_prompt_and_extra_info_of_published_rows_are_kept(row: dict[str, Any], form: Any) -> None:
    given = row | {"prompt": json.dumps(row["prompt"])} if form == "packed" else form(row)
    (question,) = load_dataset([given]).questions
    assert question.text == "who?"
    assert question.prompt == tuple(row["prompt"])
    assert question.metadata is not None
    assert question.metadata["extra_info"] == row["extra_info"]


@pytest.mark.parametrize(
    "prompt", [None, "", 7, [], [{"role": "user"}], [{"role": "user", "content": [{"a": 1}]}], ["a"]]
)
def test_another_prompt_column_is_no_prompt_and_makes_no_row_bad(prompt: object) -> None:
    (question,) = load_dataset([SEARCH_R1 | {"prompt": prompt}]).questions
    assert question.prompt is None


def test_a_text_is_one_user_message_and_a_column_can_be_named() -> None:
    row = {"question": "who?", "answer": "Ada", "asked": "Tell me who."}
    (question,) = load_dataset([row], columns={"prompt": "asked"}).questions
    assert question.prompt == ({"role": "user", "content": "Tell me who."},)
    assert question.metadata is None


def test_the_environment_plays_the_prompt_of_the_row() -> None:
    env = gym.make("ZeroSearch-v0", dataset=[SEARCH_R1], search_engine=ConstantEngine(), prompt_template="dataset")
    assert env.reset(seed=0)[0] == MESSAGES[1]["content"]
    (question,) = load_dataset([DEEPRESEARCHER]).questions
    episode = Episode(question, make_rules(prompt_template="dataset"))
    assert episode.prompt == "Be brief.\nUse <search>. Question: who?\n"
    assert episode.messages == tuple(MESSAGES)
    assert Episode(question, make_rules(prompt_template="Q: {question}")).messages == (
        {"role": "user", "content": "Q: who?"},
    )


def test_a_dataset_without_prompts_is_refused_at_the_start() -> None:
    rows = [SEARCH_R1, SEARCH_R1 | {"id": "test_1", "prompt": None}]
    with pytest.raises(DataError, match=r"'test_1' of 'nq' has none: expected a column 'prompt'"):
        gym.make("ZeroSearch-v0", dataset=rows, search_engine=ConstantEngine(), prompt_template="dataset")
    with pytest.raises(DataError, match="of 'world' has none"):
        gym.make("ZeroSearch-v0", prompt_template="dataset")
    with pytest.raises(DataError, match="has none"):
        Episode(Question("q", "who?", ("Ada",)), make_rules(prompt_template="dataset"))


def test_prompts_of_another_protocol_are_refused_at_the_start() -> None:
    content = "Write <|begin_of_query|> ... </answer>"
    shown = [SEARCH_R1 | {"prompt": [{"role": "user", "content": "Write </call>"}]}]
    with pytest.raises(ConfigError, match="the prompt shows </call>"):
        gym.make("ZeroSearch-v0", dataset=shown, search_engine=ConstantEngine(), prompt_template="dataset")
    check_prompts(make_rules(prompt_template="dataset"), load_dataset([SEARCH_R1 | {"prompt": content}]).questions)


def test_a_missing_file_of_a_template_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'nowhere\.txt', which does not contain it and is not a file.*'dataset'"):
        make_rules(prompt_template="nowhere.txt")


def test_prompts_count_in_the_identity_only_where_they_are_used() -> None:
    one, other = (load_dataset([SEARCH_R1 | {"prompt": text}]) for text in ("a", "b"))
    assert dataset_identity(one) == dataset_identity(other)
    assert dataset_identity(one, prompts=True) != dataset_identity(other, prompts=True)


@pytest.mark.parametrize(
    ("prompts", "without"),
    [
        ([MESSAGES, MESSAGES[1:], MESSAGES], None),
        ([MESSAGES, None, MESSAGES], 1),
        ([MESSAGES, MESSAGES, []], 2),
        ([[{"role": "user", "content": None}], MESSAGES, MESSAGES], 0),
        (["a", "b", " "], 2),
        (["a", json.dumps(MESSAGES), "c"], None),
        ([1, 2, 3], 0),
    ],
)
def test_a_table_finds_its_first_question_without_a_prompt(
    prompts: list[object], without: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "LEAST_ROWS", 1)
    rows = [SEARCH_R1 | {"id": f"q{index}", "prompt": prompt} for index, prompt in enumerate(prompts)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "q.parquet")
    questions = load_dataset(tmp_path / "q.parquet").questions
    assert isinstance(questions, TableQuestions)
    assert questions.first_without_prompt() == without
    assert without == next((i for i, question in enumerate(questions) if not question.prompt), None)
