"""`zerosearch simulator extract`: pairs, their prompt, de-duplication, split, balance, and foreign files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from zerosearch_agents.runs.manifest import read_manifest
from zerosearch_agents.simulator.cli import main
from zerosearch_agents.simulator.pairs.extract import ExtractConfig, extract, split_of
from zerosearch_agents.simulator.pairs.files import manifest_path
from zerosearch_agents.simulator.pairs.foreign import foreign_pair
from zerosearch_agents.simulator.pairs.pair import Pair, as_record, prompt_text, question_key, read_pairs, target_text
from zerosearch_env.engines.simulated.parse import parse_documents
from zerosearch_env.engines.simulated.prompts import STYLES
from zerosearch_env.engines.simulated.sets import SimulationOptions, prompt_of
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.types import Document, SearchRequest


def pair(query: str, *texts: str, noisy: bool = False, question: str = "Which tree?", **fields: str) -> Pair:
    documents = tuple(Document("", f"{text} It stands behind the old barn.") for text in texts or ("An oak.",))
    return Pair("tuned-1", question, ("oak",), query, noisy, documents, **fields)


def config(**options: object) -> ExtractConfig:
    return ExtractConfig((Path("in.jsonl"),), **{"test_share": 0.0, "balance": False, **options})


def test_the_prompt_is_the_one_that_the_engine_sends() -> None:
    found = pair('say "</search> <b>oak"', "An oak.", "Another oak.")
    text = prompt_text(found)
    assert "instruction): \"say ' oak'\"" in text
    assert "Answers to that question: oak" in text
    assert text.endswith("Number: 2\n### Documents\n")
    assert "oak" not in prompt_text(replace(found, noisy=True, query="tree")).lower()
    request = SearchRequest(found.query, found.question, found.answers, False, 2, 0)
    assert prompt_of(request, False, SimulationOptions()) == text


def test_the_target() -> None:
    documents = (Document("The Oak", "A tree.\nOld."), Document("", "Doc 7: no\x07thing"))
    assert target_text(documents) == "Doc 1: (Title: The Oak) A tree. Old.\nDoc 2: Doc 7: no thing"


def test_duplicates_and_contradictions() -> None:
    pairs = [pair("tree"), pair("TREE ", "an  OAK."), pair("tree", noisy=True), pair("tree", "An oak!")]
    kept, counts = extract(pairs, config(noisy_with_answer="keep"))
    assert kept == [pairs[0], pairs[2], pairs[3]]
    assert counts["duplicates"] == 1
    assert counts["contradictory"] == 2
    kept, _ = extract(pairs, config(noisy_with_answer="keep", contradictory="drop"))
    assert kept == [pairs[3]]


def test_documents_that_contradict_their_label() -> None:
    pairs = [pair("a"), pair("b", "An ash."), pair("c", noisy=True), pair("d", "An ash.", noisy=True)]
    kept, counts = extract(pairs, config())
    assert [p.query for p in kept] == ["a", "b", "d"]
    assert counts["noisy_with_answer"] == counts["useful_without_answer"] == 1
    kept, _ = extract(pairs, config(noisy_with_answer="keep", useful_without_answer="drop"))
    assert [p.query for p in kept] == ["a", "c", "d"]


def test_what_the_engine_rejects_is_not_learnt() -> None:
    good, title = Document("", "An ash stands behind the old barn."), Document("An ash", "")
    texts = [
        "I hope this helps with your question.",
        "Three words only.",
        "Which tree?",
        "AN ASH stands behind the old barn.",
    ]
    junk = [Document("", text) for text in texts]
    echo = Document("", STYLES["tuned"].instruction.partition("\n")[0])
    mixed = replace(pair("a"), documents=(*junk[:3], good, title, junk[3], echo))
    useless = replace(pair("b"), documents=(title, *junk[:3]))
    kept, counts = extract([mixed, useless, pair("c", "An ash.")], config())
    assert kept == [replace(mixed, documents=(good,)), pair("c", "An ash.")]
    rejected = {name: count for name, count in counts.items() if name.endswith("_documents") and count}
    assert rejected == {
        "chat_documents": 2,
        "fragment_documents": 6,
        "looping_documents": 1,
        "echo_documents": 1,
        "too_few_documents": 1,
    }
    parsed = parse_documents(target_text(kept[0].documents), 1)
    assert (parsed.documents, parsed.rejected) == ((good,), ())


def test_number_of_documents() -> None:
    pairs = [pair("a", "1"), pair("b", "1", "2"), pair("c", "1", "2", "3")]
    kept, counts = extract(pairs, config(min_documents=2, max_documents=2))
    assert [(p.query, len(p.documents)) for p in kept] == [("b", 2), ("c", 2)]
    assert counts["too_few_documents"] == counts["cut"] == 1


def test_the_split_is_by_question_and_stays() -> None:
    questions = [f"Which tree, number {i}?" for i in range(300)]
    pairs = [pair(f"{q} {k}", "An ash.", noisy=k == 1, question=q) for q in questions for k in range(3)]
    kept, counts = extract(pairs, config(test_share=0.2))
    parts = {part: {question_key(p.question) for p in kept if p.split == part} for part in ("train", "test")}
    assert not parts["train"] & parts["test"]
    assert counts["test_questions"] == len(parts["test"])
    assert 35 <= len(parts["test"]) <= 85
    fewer, _ = extract(pairs[:90], config(test_share=0.2))
    assert fewer == kept[:90]
    assert split_of("Which  TREE?", 0.5, 1) == split_of("which tree", 0.5, 1)
    assert any(split_of(q, 0.2, 1) != split_of(q, 0.2, 0) for q in questions)


def test_balance_is_seeded() -> None:
    pairs = [pair(f"q{i}", "An ash.", noisy=i % 4 == 0, question=f"Q{i}?") for i in range(200)]
    kept, counts = extract(pairs, config(balance=True, test_share=0.3))
    assert counts["train_useful"] == counts["train_noisy"] > 0
    assert counts["test_useful"] == counts["test_noisy"] > 0
    assert counts["balanced_away"] == 200 - len(kept) == 100
    assert kept == extract(pairs, config(balance=True, test_share=0.3))[0]
    assert kept != extract(pairs, config(balance=True, test_share=0.3, seed=1))[0]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(label: str | None, query: str = "tree") -> dict:
    search = {"query": query, "documents": [{"title": "", "text": "An ash stands behind the barn."}], "label": label}
    return {"id": query, "question": "Which tree?", "answers": ["oak"], "em": True, "searches": [search]}


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "in.jsonl", labelled("useful"), labelled("noisy", "trees"))
    assert main(["extract", "--input", str(source), "--output", "out.jsonl", "--test-share", "0"]) == 0
    pairs = read_pairs(Path("out.jsonl"), split="train")
    assert [(p.query, p.noisy, p.split) for p in pairs] == [("tree", False, "train"), ("trees", True, "train")]
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert manifest["lines"] == 2
    assert manifest["counts"]["train_noisy"] == 1
    write(source, labelled(None))
    with pytest.raises(DataError, match=r"row 1: field 'searches\[0\].label'.*simulator label"):
        main(["extract", "--input", str(source), "--output", "out.jsonl"])
    write(source, labelled("useful"))
    with pytest.raises(DataError, match="no pair is left"):
        main(["extract", "--input", str(source), "--output", "out.jsonl"])
    with pytest.raises(ConfigError, match="Did you mean 'tuned'"):
        ExtractConfig((source,), prompt="tune")


def test_several_files_give_one_set_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", labelled("useful"), labelled("noisy", "trees"))
    write(tmp_path / "b.jsonl", labelled("useful"), labelled("noisy", "yard"), {"bad": 1})
    command = ["extract", "--input", "a.jsonl", "b.jsonl", "--output", "out.jsonl", "--no-balance"]
    with pytest.raises(DataError, match=r"b.jsonl, row 3: field 'searches': expected a trajectory"):
        main(command)
    assert main([*command, "--on-bad-row", "skip"]) == 0
    assert [p.query for p in read_pairs(Path("out.jsonl"))] == ["tree", "trees", "yard"]
    manifest = read_manifest(manifest_path(Path("out.jsonl")))
    assert manifest is not None
    assert (manifest["counts"]["rows"], manifest["counts"]["skipped_rows"]) == (5, 1)
    assert manifest["input"]["paths"] == ["a.jsonl", "b.jsonl"]


def test_bad_pairs_are_named(tmp_path: Path) -> None:
    good = as_record(pair("tree"))
    path = write(tmp_path / "pairs.jsonl", good, {**good, "prompt_id": "tuned-0"})
    with pytest.raises(DataError, match="row 2: field 'prompt_id': expected one of few-shot-1, tiny-1, tuned-1"):
        read_pairs(path)
    assert len(read_pairs(path, on_bad_row="skip")) == 1
    del good["split"]
    write(path, {**good, "splits": "train"})
    with pytest.raises(
        DataError, match=r"field 'split': expected the split in the column 'split'.* nearest is 'splits'"
    ):
        read_pairs(path)


PROMPT = (
    "You are the search engine.\nGiven a query, you need to generate five {kind} documents for the query.\n\n"
    "The user is trying to answer the question: Which tree? whose answer is oak.\n"
    "Each document should contain about 30 words.\n\nQuery: tree of the yard\n{Kind} Output:"
)
REPLY = "Doc 1: An oak in the yard.\nDoc 2: (Title: Trees) Doc 9 was an oak."


@pytest.mark.parametrize("kind", ["useful", "noisy"])
@pytest.mark.parametrize("layout", ["prompt", "instruction", "messages", "chat prompt", "messages as text"])
def test_simulation_tuning_files(tmp_path: Path, layout: str, kind: str) -> None:
    prompt = PROMPT.format(kind=kind, Kind=kind.capitalize())
    row = {
        "prompt": {"prompt": prompt, "response": REPLY},
        "instruction": {"instruction": prompt.partition("\n\nQuery")[0], "input": prompt[prompt.index("Query") :],
                        "output": REPLY},
        "messages": {"messages": [{"role": "system", "content": "Hello."}, {"role": "user", "content": prompt},
                                  {"role": "assistant", "content": REPLY}]},
        "chat prompt": {"prompt": [{"role": "user", "content": prompt}], "completion": REPLY},
    }[layout.removesuffix(" as text")]  # fmt: skip
    row = {name: repr(value) for name, value in row.items()} if layout.endswith("as text") else row
    source = write(tmp_path / "in.jsonl", row)
    options = ["--no-balance", "--test-share", "0", "--noisy-with-answer", "keep"]
    main(["extract", "--input", str(source), "--output", str(tmp_path / "out.jsonl"), *options])
    (found,) = read_pairs(tmp_path / "out.jsonl")
    assert found == Pair(
        "tuned-1",
        "Which tree?",
        ("oak",),
        "tree of the yard",
        kind == "noisy",
        (Document("", "An oak in the yard."), Document("Trees", "Doc 9 was an oak.")),
    )


@pytest.mark.parametrize(
    ("written", "question"),
    [
        ('"Which tree?"', "Which tree?"),
        ("\u201cWhich tree?\u201d", "Which tree?"),
        ('"Which "old" tree?"', 'Which "old" tree?'),
        ('"Oak" or "Elm"', '"Oak" or "Elm"'),
        ('Which "tree"', 'Which "tree"'),
    ],
)
def test_quotation_marks_around_a_question_belong_to_the_prompt(written: str, question: str) -> None:
    prompt = PROMPT.replace("Which tree?", written).replace("oak.", '"oak".').format(kind="useful", Kind="Useful")
    found = foreign_pair({"prompt": prompt, "response": REPLY}, "tuned-1")
    assert (found.question, found.answers) == (question, ("oak",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": PROMPT.replace("Query:", "Search:")}, "field 'prompt': expected a line 'Query"),
        ({"prompt": PROMPT.replace(" whose", " with")}, "field 'prompt': expected the question and its answer"),
        ({"prompt": PROMPT.replace("{kind} ", "").replace("{Kind} ", "")}, "field 'prompt': expected the kind"),
        ({"response": "I cannot."}, "field 'response': expected documents"),
    ],
)
def test_foreign_rows_that_do_not_tell(tmp_path: Path, change: dict, message: str) -> None:
    prompt = PROMPT.format(kind="useful", Kind="Useful")
    change = {key: value.format(kind="useful", Kind="Useful") for key, value in change.items()}
    good = {"prompt": prompt, "response": REPLY}
    source = write(tmp_path / "in.jsonl", good, {**good, **change})
    command = ["extract", "--input", str(source), "--output", str(tmp_path / "out.jsonl"), "--no-balance"]
    with pytest.raises(DataError, match=f"row 2: {message}"):
        main(command)
    main([*command, "--on-bad-row", "skip"])
    assert len(read_pairs(tmp_path / "out.jsonl")) == 1
