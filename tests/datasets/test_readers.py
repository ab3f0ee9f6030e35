"""Each format, written here in exactly the form in which it is published."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerosearch_env.datasets import FORMATS, load_corpus, load_dataset
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import Dataset, Document, Paragraph, Question

Row = Mapping[str, Any]


def lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: Sequence[Row]) -> Path:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer.write_table(arrow.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path


def search_r1_row(index: int, source: str, question: str, golds: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "id": f"train_{index}",
        "question": question,
        "golden_answers": golds,
        "data_source": source,
        "prompt": [{"role": "user", "content": f"Answer the question. Question: {question}\n"}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": golds}},
        "extra_info": {"split": "train", "index": index},
        "metadata": None,
    } | changes


def test_search_r1_parquet(tmp_path: Path) -> None:
    rows = [
        search_r1_row(0, "nq", "total number of death row inmates in the us", ["2,718"]),
        search_r1_row(1, "hotpotqa", "Who wrote it?", ["Ada", "Ada L."]),
    ]
    data = load_dataset(parquet(tmp_path / "train.parquet", rows))
    expected = [
        ("train_0", "total number of death row inmates in the us", ("2,718",), "nq", "train"),
        ("train_1", "Who wrote it?", ("Ada", "Ada L."), "hotpotqa", "train"),
    ]
    assert data.questions == [
        Question(*fields, metadata={"extra_info": row["extra_info"]}, prompt=tuple(row["prompt"]))
        for fields, row in zip(expected, rows, strict=True)
    ]
    assert (data.name, data.metadata["format"]) == ("train", "search-r1")
    assert data.passages is None


def test_search_r1_files_merged_from_several_sets_repeat_ids(tmp_path: Path) -> None:
    rows = [search_r1_row(0, source, "q?", ["a"]) for source in ("nq", "hotpotqa")]
    data = load_dataset(parquet(tmp_path / "train.parquet", rows))
    assert [question.id for question in data.questions] == ["nq/train_0", "hotpotqa/train_0"]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


FULL = search_r1_row(7, "nq", "Who?", ["Ada"])


@pytest.mark.parametrize(
    "row",
    [
        FULL,
        without(FULL, "ability", "metadata", "extra_info", "prompt"),
        without(FULL, "golden_answers"),
        without(FULL, "reward_model"),
        without(FULL, "question"),
        FULL | {"golden_answers": None, "reward_model": {"ground_truth": ["Ada"]}},
        FULL | {"golden_answers": np.array(["Ada"], dtype=object)},
        FULL | {"golden_answers": [], "reward_model": {"ground_truth": {"target": np.array(["Ada"], dtype=object)}}},
        FULL | {"reward_model": json.dumps(FULL["reward_model"]), "golden_answers": None},
        without(FULL, "golden_answers", "reward_model", "question")
        | {"reward_spec": {"ground_truth": {"target": "Ada"}}},
        without(FULL, "question") | {"prompt": np.array([{"role": "user", "content": "Question: Who?"}], dtype=object)},
        without(FULL, "question") | {"prompt": "Who?"},
    ],
)
def test_search_r1_rows_in_memory_with_arrays_and_missing_columns(row: dict[str, Any]) -> None:
    data = load_dataset([row])
    (question,) = data.questions
    assert replace(question, metadata=None, prompt=None) == Question("train_7", "Who?", ("Ada",), "nq", "train")
    assert (data.skipped_rows, data.metadata["format"]) == (0, "search-r1")


def test_search_r1_rows_without_an_id_are_named_after_their_index() -> None:
    assert load_dataset([without(FULL, "id")]).questions[0].id == "nq-7"


def test_flashrag_jsonl_in_a_folder_of_splits(tmp_path: Path) -> None:
    folder = tmp_path / "popqa"
    folder.mkdir()
    rows = [
        {"id": "test_0", "question": "What is X's job?", "golden_answers": ["poet", "writer"], "metadata": {"pop": 3}},
        {"id": "test_1", "question": "Where?", "golden_answers": ["Essen"]},
    ]
    lines(folder / "test.jsonl", rows)
    data = load_dataset(folder, "test")
    assert data.questions == [
        Question("test_0", "What is X's job?", ("poet", "writer"), "popqa", "test", metadata={"pop": 3}),
        Question("test_1", "Where?", ("Essen",), "popqa", "test"),
    ]
    assert data.metadata["format"] == "flashrag"


HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "question": "Were A and B of the same nationality?",
    "answer": "yes",
    "supporting_facts": [["A", 0], ["B", 0]],
    "context": [["X", ["First. ", " Second."]], ["A", ["A is American."]], ["B", ["B is American.", " He lived."]]],
    "type": "comparison",
    "level": "hard",
}
HOTPOT_HUB = HOTPOT | {
    "id": HOTPOT["_id"],
    "supporting_facts": {"title": ["A", "B"], "sent_id": [0, 0]},
    "context": {
        "title": ["X", "A", "B"],
        "sentences": [["First. ", " Second."], ["A is American."], ["B is American.", " He lived."]],
    },
}
HOTPOT_QUESTION = Question(
    "5a8b57f25542995d1e6f1371",
    "Were A and B of the same nationality?",
    ("yes",),
    "dev",
    "dev",
    (
        Paragraph("X", "First. Second.", False),
        Paragraph("A", "A is American.", True),
        Paragraph("B", "B is American. He lived.", True),
    ),
    {"type": "comparison", "level": "hard"},
)


@pytest.mark.parametrize("container", ["array", "jsonl", "jsonl.gz", "array.gz", "parquet"])
@pytest.mark.parametrize("row", [HOTPOT, without(HOTPOT_HUB, "_id")], ids=["file", "hub"])
def test_hotpotqa(tmp_path: Path, row: dict[str, Any], container: str) -> None:
    if container == "parquet":  # which has no lists of mixed types: the hub's form is the one that occurs
        path = parquet(tmp_path / "dev.parquet", [without(HOTPOT_HUB, "_id")])
    else:
        content = json.dumps(row) + "\n" if "jsonl" in container else json.dumps([row], indent=1)
        path = tmp_path / f"dev.{container.replace('array', 'json')}"
        path.write_bytes(gzip.compress(content.encode()) if container.endswith("gz") else content.encode())
    data = load_dataset(path, "dev")
    assert data.questions == [HOTPOT_QUESTION]
    assert data.metadata["format"] == "hotpotqa"


def test_supporting_facts_without_paragraphs_are_kept_as_titles(tmp_path: Path) -> None:
    facts = {"supporting_facts": {"title": ["B", "A", "B"], "sent_id": [0, 0, 1]}}
    flashrag = {"id": "1", "question": "Who?", "golden_answers": ["Ada"], "metadata": facts}
    own = {"question": "Who?", "answer": "Ada", "supporting_facts": [["A", 0], ["B", 2]]}
    other = {"question": "Who?", "answer": "Ada", "supporting_facts": "three of them"}
    titled = {"question": "Who?", "answer": "Ada", "supporting": ["C"]}
    for row, titles in ((flashrag, ("A", "B")), (own, ("A", "B")), (other, ()), (titled, ("C",))):
        assert load_dataset(lines(tmp_path / "dev.json", [row]), "dev").questions[0].supporting == titles
    assert HOTPOT_QUESTION.supporting == ("A", "B")


@pytest.mark.parametrize("as_text", [False, True])
def test_2wikimultihopqa(tmp_path: Path, as_text: bool) -> None:
    row = HOTPOT | {"evidences": [["A", "country", "US"]], "answer_id": "Q1"}
    if as_text:  # one of the copies on the hub keeps nested fields as JSON text
        row |= {name: json.dumps(row[name]) for name in ("context", "supporting_facts", "evidences")}
    data = load_dataset(lines(tmp_path / "dev.json", [row]), "dev")
    assert data.metadata["format"] == "2wikimultihopqa"
    assert data.questions[0].paragraphs == HOTPOT_QUESTION.paragraphs


MUSIQUE = {
    "id": "2hop__13548_13529",
    "paragraphs": [
        {"idx": 0, "title": "Lake", "paragraph_text": "A lake.", "is_supporting": False},
        {"idx": 1, "title": "Chain", "paragraph_text": "A chain.", "is_supporting": True},
    ],
    "question": "When was it built?",
    "question_decomposition": [{"id": 1}, {"id": 2}],
    "answer": "1970",
    "answer_aliases": ["in 1970", "1970"],
    "answerable": True,
}


def test_musique(tmp_path: Path) -> None:
    data = load_dataset(
        lines(tmp_path / "musique_ans_v1.0_dev.jsonl", [MUSIQUE, MUSIQUE | {"id": "x", "answer_aliases": []}])
    )
    assert data.questions[0] == Question(
        "2hop__13548_13529",
        "When was it built?",
        ("1970", "in 1970"),
        "musique_ans_v1.0_dev",
        "train",
        (Paragraph("Lake", "A lake.", False), Paragraph("Chain", "A chain.", True)),
        {"hops": 2},
    )
    assert data.questions[1].answers == ("1970",)
    assert data.metadata["format"] == "musique"


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ({"answers": ["a", "b"]}, ("a", "b")),
        ({"answers": "a"}, ("a",)),
        ({"answer": " a "}, ("a",)),
        ({"answer": ["a", "a", ""]}, ("a",)),
        ({"answer": 1984}, ("1984",)),
        ({"answer": [1, "one"]}, ("1", "one")),
        ({"answer": "a<|answer_split|>b"}, ("a", "b")),
        ({"answer": {"value": "a", "aliases": ["b"], "normalized_value": "a"}}, ("a", "b")),
        ({"answers": {"text": ["a"], "answer_start": [3]}}, ("a",)),
        ({"answer": None, "answers": ["a"]}, ("a",)),
        ({"golden_answers": "a"}, ("a",)),
        ({"answer": "a", "aliases": ["b"]}, ("a", "b")),
    ],
)
def test_plain_answers(tmp_path: Path, row: dict[str, Any], golds: tuple[str, ...]) -> None:
    data = load_dataset(lines(tmp_path / "mine.jsonl", [{"question": "q?", **row}]))
    assert data.questions[0].answers == golds


def test_plain_jsonl_keeps_other_fields_as_metadata(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        '\ufeff{"question": "Où?", "answer": "là", "type": "x"}\r\n\n{"idx": 0, "problem": "p", "answer": 3}'.encode()
    )
    assert load_dataset(path, "dev").questions == [
        Question("mine-1", "Où?", ("là",), "mine", "dev", metadata={"type": "x"}),
        Question("0", "p", ("3",), "mine", "dev"),
    ]


def test_limit_and_explicit_format(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl", [{"id": str(i), "question": "q", "golden_answers": ["a"], "k": i} for i in range(9)]
    )
    assert [q.id for q in load_dataset(path, limit=3).questions] == ["0", "1", "2"]
    assert len(load_dataset(path, limit=100).questions) == 9
    data = load_dataset(path, format="plain", limit=1)
    assert data.questions[0].metadata == {"k": 0}
    assert data.metadata["format"] == "plain"
    assert set(FORMATS) == {"search-r1", "flashrag", "hotpotqa", "2wikimultihopqa", "musique", "plain"}


def test_a_dataset_is_returned_as_it_is_or_cut() -> None:
    data = Dataset("d", "train", [Question(str(i), "q", ("a",)) for i in range(3)])
    assert load_dataset(data) is data
    assert len(load_dataset(data, limit=2).questions) == 2


def test_the_world_by_name() -> None:
    data = load_dataset("world", "test", limit=7)
    assert (data.name, data.split, len(data.questions)) == ("world", "test", 7)
    assert data.passages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "wrold"}, "Did you mean 'world'"),
        ({"source": ""}, "unknown dataset"),
        ({"source": "world", "on_bad_row": "ignore"}, "on_bad_row 'ignore'.*'raise', 'skip'"),
        ({"source": "world", "limit": 0}, "limit"),
        ({"source": "world", "limit": True}, "limit"),
        ({"source": "x.jsonl", "format": "hotpot"}, "Did you mean 'hotpotqa'"),
        ({"source": "world", "format": "plain"}, "describes a file"),
        ({"source": "x.jsonl", "world": object()}, "was given"),
        ({"source": "world", "split": "trian"}, "Did you mean 'train'"),
    ],
)
def test_unusable_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(**arguments)


CORPUS_ROWS = [
    (
        {"id": "0", "contents": '"Ada Lovelace"\nA mathematician.\nTwo lines.'},
        Document("Ada Lovelace", "A mathematician.\nTwo lines.", "0"),
    ),
    ({"id": 1, "contents": "No title"}, Document("", "No title", "1")),
    ({"id": "2", "contents": 'Half "quoted\ntext'}, Document('Half "quoted', "text", "2")),
    ({"id": "3", "title": "T", "text": "x\ny"}, Document("T", "x\ny", "3")),
    ({"_id": "4", "title": "T", "text": "x", "contents": '"T"\nx'}, Document("T", "x", "4")),
    ({"text": "only\ntext"}, Document("", "only\ntext", "6")),
]


@pytest.mark.parametrize("container", ["jsonl", "jsonl.gz", "parquet"])
def test_corpus_files(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"corpus.{container}"
    rows = [row for row, _ in CORPUS_ROWS]
    if container == "parquet":
        parquet(path, [{**row, "id": str(row.get("id", row.get("_id", 6)))} for row in rows])
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(content) if container.endswith("gz") else content)
    assert load_corpus(path) == [document for _, document in CORPUS_ROWS]
    assert load_corpus(tmp_path, limit=2) == [document for _, document in CORPUS_ROWS[:2]]


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (
            "Answer the given question. Question: who hosts Any Question: The Debate?\n",
            "who hosts Any Question: The Debate?",
        ),
        ("Question: a?\nAnswer: b\nQuestion: what is Open. Question: Time?", "what is Open. Question: Time?"),
        ("write <answer> Beijing </answer>. Question: who?\n", "who?"),
        ("</rules> question: who?", "who?"),
        ("the question: who asks the big question: why?", "who asks the big question: why?"),
        ("Which film asks the question: who am I?", "Which film asks the question: who am I?"),
        ("Use the search engine when you must. Answer this question: who am I?", "who am I?"),
        ("Question: Which film asks the question: who am I?\n", "Which film asks the question: who am I?"),
        ("Answer. Question: Which film asks: the question: who am I?", "Which film asks: the question: who am I?"),
        ("Who?", "Who?"),
    ],
)
def test_the_question_of_a_prompt_may_contain_the_word(tmp_path: Path, prompt: str, question: str) -> None:
    row = {"prompt": [{"role": "user", "content": prompt}], "reward_model": {"ground_truth": {"target": ["a"]}}}
    assert load_dataset(parquet(tmp_path / "q.parquet", [row])).questions[0].text == question
