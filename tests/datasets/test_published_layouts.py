"""The layouts in which sets of questions are published, rebuilt with three rows each, and load by path."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from zerosearch_env.datasets import load_corpus, load_dataset, parse_columns
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.types import Document

Row = Mapping[str, Any]


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    delimiter = "\t" if ".tsv" in path.name else ","
    with gzip.open(path, "wt", newline="") if path.name.endswith(".gz") else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(list(rows)), path)
    return path


def write_document(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return path


def three(row: Callable[[int], Row]) -> list[Row]:
    return [row(number) for number in range(3)]


POPQA = three(
    lambda i: {
        "id": 4222362 + i,
        "subj": "A",
        "obj": "poet",
        "s_pop": 142,
        "question": f"What is A's occupation {i}?",
        "possible_answers": json.dumps(["poet", f"writer {i}"]),
    }
)
BAMBOOGLE = three(lambda i: {"Question": f"Who was president {i}?", "Answer": f"James Madison {i}"})
FRAMES = three(
    lambda i: {"Unnamed: 0": i, "Prompt": f"How many years {i}?", "Answer": f"{i} years", "wiki_links": "['https://a']"}
)
GAIA = three(
    lambda i: {"task_id": f"c61d{i}", "Question": f"What {i}?", "Level": 1, "Final answer": f"egg {i}", "file_name": ""}
)
CWQ = three(
    lambda i: {
        "ID": f"WebQTrn-{i}",
        "answers": [
            {"answer_id": "m.03_d", "answer": f"Lou Seal {i}", "aliases": ["Lou"]},
            {"answer_id": "m.1", "answer": "Crazy Crab", "aliases": []},
        ],
        "composition_answer": "bird",
        "question": f"What is the mascot {i}?",
    }
)
NARRATIVE_HUB = three(
    lambda i: {
        "document": {"id": "d", "kind": "gutenberg"},
        "question": {"text": f"Who is he {i}?", "tokens": ["Who"]},
        "answers": [{"text": f"A guard {i}.", "tokens": ["A"]}, {"text": "A watchman.", "tokens": ["A"]}],
    }
)
NARRATIVE_TABLE = three(
    lambda i: {
        "document_id": "d",
        "set": "test",
        "question": f"Who is he {i}?",
        "answer1": f"A guard {i}.",
        "answer2": "A watchman.",
        "answer1_tokenized": "a guard .",
    }
)
AMBIG = three(
    lambda i: {
        "id": f"-{i}",
        "question": f"When did it start {i}?",
        "nq_answer": ["no"],
        "annotations": [
            {"type": "singleAnswer", "answer": [f"19{i}0", "early"]},
            {
                "type": "multipleQAs",
                "qaPairs": [{"question": "a?", "answer": ["1999"]}, {"question": "b?", "answer": ["2001", "early"]}],
            },
        ],
    }
)
AMBIG_HUB = three(
    lambda i: {
        "id": f"-{i}",
        "question": f"When did it start {i}?",
        "annotations": {
            "type": ["singleAnswer", "multipleQAs"],
            "answer": [[f"19{i}0", "early"], []],
            "qaPairs": [
                {"question": [], "answer": []},
                {"question": ["a?", "b?"], "answer": [["1999"], ["2001", "early"]]},
            ],
        },
    }
)
WEB_QUESTIONS = three(
    lambda i: {
        "url": "http://x",
        "targetValue": f'(list (description "Jazmyn \\"J\\" {i}") (description Jaxon))',
        "utterance": f"who is the brother {i}?",
    }
)
WEB_QSP = {
    "Version": "1.0",
    "FreebaseVersion": "2015-08-09",
    "Questions": three(
        lambda i: {
            "QuestionId": f"WebQTest-{i}",
            "RawQuestion": f"when did it start {i}?",
            "ProcessedQuestion": f"when did it start {i}",
            "Parses": [
                {
                    "ParseId": f"WebQTest-{i}.P0",
                    "TopicEntityName": "It",
                    "Answers": [
                        {"AnswerType": "Entity", "AnswerArgument": "m.01428y", "EntityName": f"Spring {i}"},
                        {"AnswerType": "Value", "AnswerArgument": "1995", "EntityName": None},
                    ],
                },
                {"ParseId": f"WebQTest-{i}.P1", "Answers": []},
            ],
        }
    ),
}
BOOL_Q = three(lambda i: {"question": f"is it so {i}", "title": "It", "answer": i == 1, "passage": "It is."})
TRIVIA_QA = {
    "Data": three(
        lambda i: {
            "Answer": {
                "Aliases": ["Lewis"],
                "NormalizedAliases": ["lewis"],
                "Type": "T",
                "Value": f"Sinclair Lewis {i}",
            },
            "Question": f"Who won {i}?",
            "QuestionId": f"tc_{i}",
            "QuestionSource": "http://x",
        }
    ),
    "Domain": "Web",
    "Version": 1.0,
}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "Denver won.",
                    "qas": three(
                        lambda i: {
                            "id": f"56{i}",
                            "question": f"Who won {i}?",
                            "answers": [
                                {"text": f"Denver {i}", "answer_start": 0},
                                {"text": "Denver", "answer_start": 0},
                            ],
                        }
                    ),
                }
            ],
        }
    ],
}
VERL = three(
    lambda i: {
        "data_source": "searchR1_nq",
        "prompt": [{"role": "user", "content": "... Question: who hosts Any Question: The Debate?"}],
        "reward_model": {"ground_truth": {"target": [f"X {i}"]}},
        "extra_info": {"index": i, "question": f"who hosts Any Question: {i}?"},
    }
)


@pytest.mark.parametrize(
    ("name", "write", "content", "question", "golds", "key"),
    [
        ("popqa.parquet", write_parquet, POPQA, "What is A's occupation 1?", ("poet", "writer 1"), "4222363"),
        ("test.tsv", write_table, POPQA, "What is A's occupation 1?", ("poet", "writer 1"), "4222363"),
        ("test.tsv.gz", write_table, POPQA, "What is A's occupation 1?", ("poet", "writer 1"), "4222363"),
        ("bamboogle.csv", write_table, BAMBOOGLE, "Who was president 1?", ("James Madison 1",), "bamboogle-3"),
        ("frames.tsv", write_table, FRAMES, "How many years 1?", ("1 years",), "frames-3"),
        ("metadata.jsonl", write_lines, GAIA, "What 1?", ("egg 1",), "c61d1"),
        ("cwq.json", write_document, CWQ, "What is the mascot 1?", ("Lou Seal 1", "Lou", "Crazy Crab"), "WebQTrn-1"),
        ("narrative.jsonl", write_lines, NARRATIVE_HUB, "Who is he 1?", ("A guard 1.", "A watchman."), "narrative-2"),
        (
            "narrative.parquet",
            write_parquet,
            NARRATIVE_HUB,
            "Who is he 1?",
            ("A guard 1.", "A watchman."),
            "narrative-2",
        ),
        ("qaps.csv", write_table, NARRATIVE_TABLE, "Who is he 1?", ("A guard 1.", "A watchman."), "qaps-3"),
        ("ambig.json", write_document, AMBIG, "When did it start 1?", ("1910", "early", "1999", "2001"), "-1"),
        ("ambig.parquet", write_parquet, AMBIG_HUB, "When did it start 1?", ("1910", "early", "1999", "2001"), "-1"),
        ("webq.json", write_document, WEB_QUESTIONS, "who is the brother 1?", ('Jazmyn "J" 1', "Jaxon"), "webq-2"),
        ("boolq.jsonl", write_lines, BOOL_Q, "is it so 1", ("yes",), "boolq-2"),
        ("boolq.parquet", write_parquet, BOOL_Q, "is it so 1", ("yes",), "boolq-2"),
        ("verl.parquet", write_parquet, VERL, "who hosts Any Question: 1?", ("X 1",), "searchR1_nq-1"),
    ],
)
def test_a_published_layout(
    tmp_path: Path,
    name: str,
    write: Callable[[Path, Sequence[Row]], Path],
    content: Sequence[Row],
    question: str,
    golds: tuple[str, ...],
    key: str,
) -> None:
    data = load_dataset(write(tmp_path / name, content), "test")
    assert (len(data.questions), data.skipped_rows) == (3, 0)
    assert (data.questions[1].text, data.questions[1].answers, data.questions[1].id) == (question, golds, key)


@pytest.mark.parametrize("indent", [None, 1])
def test_the_originals_of_triviaqa_squad_and_webqsp(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "web-dev.json"
    path.write_text(json.dumps(TRIVIA_QA, indent=indent))
    trivia = load_dataset(path).questions
    assert [q.id for q in trivia] == ["tc_0", "tc_1", "tc_2"]
    assert (trivia[2].text, trivia[2].answers) == ("Who won 2?", ("Sinclair Lewis 2", "Lewis"))
    path.write_text(json.dumps(SQUAD, indent=indent))
    squad = load_dataset(path).questions
    assert [(q.id, q.answers) for q in squad] == [(f"56{i}", (f"Denver {i}", "Denver")) for i in range(3)]
    assert (squad[0].metadata or {})["context"] == "Denver won."
    path.write_text(json.dumps(WEB_QSP, indent=indent))
    webqsp = load_dataset(path).questions
    assert [(q.id, q.answers) for q in webqsp] == [(f"WebQTest-{i}", (f"Spring {i}", "1995")) for i in range(3)]
    assert webqsp[1].text == "when did it start 1?"


@pytest.mark.parametrize("value", [True, "[true]", {"value": True}, [True]])
def test_booleans_are_answered_with_yes_and_no(value: object) -> None:
    assert load_dataset([{"question": "is it so", "answer": value}]).questions[0].answers == ("yes",)
    assert load_dataset([{"question": "is it so", "answer": False}]).questions[0].answers == ("no",)


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.csv.gz", "q.tsv.gz"])
def test_tables_without_a_header(tmp_path: Path, name: str) -> None:
    cells = [[f"Is {i} a, or b?", f'["a{i}"]', f"b{i}", ""] for i in range(3)]
    path = tmp_path / name
    with gzip.open(path, "wt", newline="") if name.endswith(".gz") else path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if ".tsv" in name else ",").writerows(cells)
    with pytest.raises(DataError, match=r"row 2: field 'question': .*number it \(from 0\) in a table without a header"):
        load_dataset(path)
    data = load_dataset(path, columns={"question": 0, "answers": 1})
    assert [(q.id, q.text, q.answers) for q in data.questions] == [
        (f"q-{i + 1}", f"Is {i} a, or b?", (f"a{i}",)) for i in range(3)
    ]
    several = load_dataset(path, columns={**parse_columns(["question=0"]), "answers": [2, 3]})
    assert [q.answers for q in several.questions] == [("b0",), ("b1",), ("b2",)]
    with pytest.raises(DataError, match=r"row 1: field 'answers': .* in the column '4', got the columns '0', '1', '2'"):
        load_dataset(path, columns={"question": 0, "answers": 4})
    with pytest.raises(ConfigError, match="names, or numbers in a table without a header"):
        load_dataset(path, columns={"question": 0, "answers": "Answer"})
    assert load_corpus(path, columns={"id": 2, "text": [0, 2]})[1] == Document("", "Is 1 a, or b?\nb1", "b1")
    env = gym.make(
        "ZeroSearch-v0", dataset=str(path), columns={"question": 0, "answers": 1}, search_engine=ConstantEngine()
    )
    assert env.reset(seed=0)[1]["question"].startswith("Is ")


def test_tab_separated_files_that_quote_nothing(tmp_path: Path) -> None:
    texts = ['"A" and B', 'A 5" disk', 'say "x"', '"whole"', '"C" and "D"', "plain"]
    path = tmp_path / "collection.tsv"
    path.write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(texts)))
    columns = {"id": 0, "text": 1}
    assert [d.text for d in load_corpus(path, columns=columns)] == [*texts[:3], "whole", *texts[4:]]
    rows = [[str(i), text, f'{text}\n"x" y\t{text}'] for i, text in enumerate(texts)]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    assert [d.text for d in load_corpus(path, columns={"id": 0, "text": [1, 2]})] == [f"{r[1]}\n{r[2]}" for r in rows]


def test_numbers_for_a_table_that_has_a_header_are_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "q.csv", BAMBOOGLE)
    with pytest.raises(DataError, match=r"q\.csv has a header: give the names of its columns"):
        load_dataset(path, columns={"question": 0, "answers": 1})


def test_columns_numbered_by_pandas_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text(",0,1\n0,Who?,Ada\n1,Where?,Jena\n")
    data = load_dataset(path, columns={"question": 0, "answers": 1})
    assert [(q.text, q.answers) for q in data.questions] == [("Who?", ("Ada",)), ("Where?", ("Jena",))]
    rows = [{0: "Who?", 1: "Ada"}, {0: "Where?", 1: "Jena"}]
    assert load_dataset(rows, columns={"question": 0, "answers": 1}).questions[1].answers == ("Jena",)


def test_verl_rows_with_the_question_in_the_prompt_only() -> None:
    prompt = (
        "Answer the given question. For example, <answer> Beijing </answer>. Question: who hosts Any Question: X?\n"
    )
    row = {"data_source": "nq", "prompt": [{"role": "user", "content": prompt}], "golden_answers": ["a"]}
    assert load_dataset([row]).questions[0].text == "who hosts Any Question: X?"
    assert load_dataset([row | {"prompt": repr(row["prompt"])}]).questions[0].text == "who hosts Any Question: X?"


def test_several_flashrag_sets_in_one_file_have_distinct_ids(tmp_path: Path) -> None:
    rows = [{"id": f"test_{i % 2}", "question": f"q{i}?", "golden_answers": ["a"]} for i in range(4)]
    data = load_dataset(write_lines(tmp_path / "m.jsonl", rows))
    assert [q.id for q in data.questions] == ["m/test_0", "m/test_1", "m/test_0#2", "m/test_1#2"]
    with pytest.raises(DataError, match="row 2: field 'id': expected a row that is not a copy of another"):
        load_dataset(write_lines(tmp_path / "m.jsonl", [rows[0], rows[0]]))


def plain_rows(count: int = 3) -> list[Row]:
    return [{"id": str(i), "question": f"q{i}?", "answers": [f"a{i}"]} for i in range(count)]


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00003.parquet", "data/train-00001-of-00003.parquet", "data/train-00002-of-00003.parquet"),
        (
            "data/train-00000-of-00003-0123456789abcdef.parquet",
            "data/train-00001-of-00003-fedcba9876543210.parquet",
            "data/train-00002-of-00003-00112233445566ff.parquet",
        ),
        ("plain_text/train/0000.parquet", "plain_text/train/0001.parquet", "plain_text/train/0002.parquet"),
        ("train_9.jsonl", "train_10.jsonl", "train_11.jsonl"),
        ("part-0.csv", "part-1.csv", "part-2.csv"),
        ("my_train_set-0.jsonl.gz", "my_train_set-1.jsonl.gz", "my_train_set-2.jsonl.gz"),
    ],
)
def test_a_folder_of_shards_is_read_in_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    (tmp_path / "README.md").write_text("---\n---\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "train.jsonl").write_text("{}")
    for name, row in zip(names, plain_rows(), strict=True):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write = write_parquet if name.endswith("parquet") else write_table if name.endswith("csv") else write_lines
        write(path, [row])
    assert [q.id for q in load_dataset(tmp_path, "train").questions] == ["0", "1", "2"]
    if "of" in names[0]:
        (tmp_path / names[1]).unlink()
        with pytest.raises(DataError, match="2 of the 3 shards"):
            load_dataset(tmp_path, "train")


def test_a_revision_in_the_cache_of_the_hub_is_named_after_its_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "datasets--owner--popqa" / "snapshots" / "0a1b2c"
    folder.mkdir(parents=True)
    write_lines(folder / "test.jsonl", plain_rows())
    assert load_dataset(folder, "test").name == "owner/popqa"


def test_several_datasets_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for name in ("nq", "popqa"):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "test.jsonl", plain_rows())
    with pytest.raises(DataError, match=r"several datasets with the split 'test'.*nq/test.jsonl, popqa/test.jsonl"):
        load_dataset(tmp_path, "test")


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        for name in ("dataset_info.json", "state.json"):
            (folder / name).write_text("{}")
        for shard in range(2):
            table = arrow.Table.from_pylist([{"question": f"{split}{shard}?", "answer": float(shard)}])
            with arrow.OSFile(str(folder / f"data-0000{shard}-of-00002.arrow"), "wb") as sink:
                writer = (arrow.ipc.new_stream if split == "train" else arrow.ipc.new_file)(sink, table.schema)
                with writer:
                    writer.write_table(table)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for place, split in ((tmp_path, "train"), (tmp_path, "test"), (tmp_path / "train", "train")):
        questions = load_dataset(place, split).questions
        assert [(q.text, q.answers) for q in questions] == [(f"{split}0?", ("0",)), (f"{split}1?", ("1",))]
    (tmp_path / "train" / "data-00000-of-00002.arrow").write_bytes(b"not arrow")
    with pytest.raises(DataError, match="not an arrow file"):
        load_dataset(tmp_path, "train")


@pytest.mark.parametrize("name", ["corpus.csv", "corpus.tsv.gz", "corpus.parquet"])
def test_corpora_in_tables_and_with_other_column_names(tmp_path: Path, name: str) -> None:
    rows = [{"id": i, "text": f"Text {i}", "title": f"Title {i}"} for i in range(3)]
    write = write_parquet if name.endswith("parquet") else write_table
    assert load_corpus(write(tmp_path / name, rows))[2] == Document("Title 2", "Text 2", "2")
    renamed = [{"nr": i, "Absatz": f"Text {i}", "Titel": f"Title {i}"} for i in range(3)]
    write(tmp_path / name, renamed)
    columns = {"id": "nr", "text": "Absatz", "title": "Titel"}
    assert load_corpus(tmp_path / name, columns=columns)[2] == Document("Title 2", "Text 2", "2")
    (tmp_path / name).rename(tmp_path / name.replace("corpus", "train-00000-of-00001"))
    assert len(load_corpus(tmp_path, columns=columns)) == 3
    (tmp_path / name.replace("corpus", "train-00000-of-00001")).rename(tmp_path / name)
    with pytest.raises(DataError, match=r"'text': expected a passage in a column such as .*the columns 'nr', 'Absatz'"):
        load_corpus(tmp_path / name)


def test_other_kinds_of_json_and_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps({"question": {"0": "a?", "1": "b?"}, "answer": {"0": "x", "1": 2.0}}))  # pandas
    assert [(q.text, q.answers) for q in load_dataset(path).questions] == [("a?", ("x",)), ("b?", ("2",))]
    path.write_text(json.dumps({"question": "a?", "answer": "x"}))
    assert len(load_dataset(path).questions) == 1
    nested = [{"question": {"text": f"{i}?"}, "answer": {"text": "x"}, "data": [{"k": 1}]} for i in range(2)]
    assert [q.text for q in load_dataset(write_lines(tmp_path / "q.jsonl", nested)).questions] == ["0?", "1?"]
    other = tmp_path / "q.pkl"
    other.write_bytes(b"\x80\x05")
    with pytest.raises(DataError, match=r"q\.pkl is not a data file: expected the ending `\.jsonl`"):
        load_dataset(other)
    table = tmp_path / "q.csv"
    table.write_bytes('Question;Answer\nWo?;Jena\nWer?;Jürgen\nWas?\nWie?;"a"b\n'.encode("latin1"))
    with pytest.raises(DataError, match=r"row 3: field 'Answer': expected valid Unicode .* a byte that is not UTF-8"):
        load_dataset(table)
    data = load_dataset(table, on_bad_row="skip")
    assert ([q.answers for q in data.questions], data.skipped_rows) == ([("Jena",)], 3)
