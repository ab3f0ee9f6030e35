"""Identity by content: hashes of files, folders, data and code, and the names of what differs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_fakes import FakeBackend

from zerosearch_env.datasets import load_dataset
from zerosearch_env.engines import ConstantEngine, CorpusEngine, make_engine
from zerosearch_env.engines.registry import engine_identity
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.identity import (
    changes,
    dataset_identity,
    documents_hash,
    file_hash,
    folder_hash,
    package_identity,
    questions_hash,
    source_file,
    source_hash,
    text_hash,
)
from zerosearch_env.llm.backend import hub_commit, model_identity
from zerosearch_env.llm.local.backend import TransformersBackend
from zerosearch_env.llm.vllm import VLLMBackend
from zerosearch_env.loading import code_identity
from zerosearch_env.types import Document, Paragraph, Question

QUESTION = Question("1", "Who?", ("A", "B"), paragraphs=(Paragraph("t", "x", True),), metadata={"hops": 2})


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    file, copy = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"one")
    copy.write_bytes(b"one")
    first = file_hash(file)
    assert first == file_hash(copy)
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a write in the same tick of the clock
    assert file_hash(file) != first


def test_an_old_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    os.utime(file, (1e9, 1e9))
    first = file_hash(file)
    monkeypatch.setattr(Path, "open", None)
    assert file_hash(file) == first


def test_a_folder_is_known_by_its_files_without_notes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w")
    first = folder_hash(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / ".lock").write_text("")
    (tmp_path / "checkpoints").mkdir()
    assert folder_hash(tmp_path) == first
    assert model_identity(str(tmp_path), "float32") == f"{tmp_path.name} {first} (float32)"
    (tmp_path / "merges.txt").write_text("")
    assert folder_hash(tmp_path) != first
    assert model_identity("owner/model") == "owner/model"


def test_a_model_on_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--owner--cached"
    for branch, commit in (("main", "a" * 40), ("dev", "b" * 40)):
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / branch).write_text(commit)
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
    hub_commit.cache_clear()
    try:
        assert model_identity("owner/cached") == f"owner/cached {'a' * 40}"
        assert model_identity("owner/cached", "float32", "dev") == f"owner/cached {'b' * 40} (float32)"
        named = TransformersBackend("owner/cached", dtype="float32").identity
        assert named == model_identity("owner/cached", "float32")
        assert VLLMBackend("owner/cached", engine_options={"revision": "dev"}).identity == f"owner/cached {'b' * 40}"
        assert model_identity("owner/other", revision="v1") == "owner/other v1"
    finally:
        hub_commit.cache_clear()


@pytest.mark.parametrize(
    "other",
    [
        replace(QUESTION, text="Whom?"),
        replace(QUESTION, answers=("A",)),
        replace(QUESTION, answers=("A', 'B",)),
        replace(QUESTION, paragraphs=(Paragraph("t", "x", False),)),
        replace(QUESTION, metadata={"hops": 2, "chain": ["B", "A"]}),
        replace(QUESTION, metadata={"hops": 1}),
    ],
)
def test_questions_differ_in_whatever_an_episode_depends_on(other: Question) -> None:
    assert questions_hash([QUESTION]) != questions_hash([other])
    assert questions_hash([QUESTION]) == questions_hash([replace(QUESTION, metadata={"hops": 2, "row": 7})])


TEXTS = st.lists(st.builds(Document, st.text(max_size=3), st.text(st.characters(exclude_categories=()), max_size=3)))


@settings(max_examples=30)
@given(TEXTS, TEXTS)
def test_documents_have_the_same_hash_exactly_if_they_are_the_same(
    first: list[Document], second: list[Document]
) -> None:
    assert (documents_hash(first) == documents_hash(second)) == (first == second)


def test_changes_are_named() -> None:
    one, two = text_hash("1"), text_hash("2")
    now = {"the version of zerosearch-env": "0.2.0", "the question file q.jsonl": one, "the corpus file c.jsonl": one}
    assert changes(now, now) == []
    assert changes({**now, "the index old": "x"}, now) == []
    assert changes({"the version of zerosearch-env": "0.1.0", "the question file q.jsonl": two}, now) == [
        "the version of zerosearch-env has changed from '0.1.0' to '0.2.0'",
        "the question file q.jsonl has changed",
        "there is no record of the corpus file c.jsonl",
    ]


def test_a_dataset_is_named_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"question": "Who?", "answers": ["A"]}\n{"question": "When?", "answers": ["B"]}\n')
    data = load_dataset(file)
    assert dataset_identity(data) == {
        **package_identity(),
        f"the question file {file}": questions_hash(data.questions),
    }
    (name, value) = list(dataset_identity(replace(data, metadata={}), data.questions[:1]).items())[1]
    assert (name, value) == ("the dataset q (train)", questions_hash(data.questions[:1]))


def test_engines_name_what_they_read(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"contents": "one"}\n{"contents": "two"}\n')
    for spec in (str(corpus), str(tmp_path)):
        assert engine_identity(make_engine(f"corpus:{spec}")) == {"the corpus file corpus.jsonl": file_hash(corpus)}
    passages = [Document("", "one"), Document("", "two")]
    assert engine_identity(CorpusEngine(passages)) == {"the corpus of passages": documents_hash(passages)}
    assert engine_identity(SimulatedEngine(FakeBackend())) == {"the simulation LLM": "fake model"}
    assert engine_identity(ConstantEngine([])) == {}

    class Own(ConstantEngine):
        identity = None  # type: ignore[assignment]

    assert engine_identity(Own([])) == {"the code in test_identity.py": source_hash(Path(__file__))}


def test_a_record_of_an_engine_holds_no_key() -> None:
    class Telling(ConstantEngine):
        def identity(self) -> dict[str, str]:
            return {"the model": "large api_key=abcdefgh12345678"}

    assert engine_identity(Telling())["the model"] == "large api_key=***"


def test_engines_that_your_code_makes_are_known_by_the_code(tmp_path: Path) -> None:
    file = tmp_path / "made.py"
    file.write_text("from zerosearch_env.engines import ConstantEngine\nengine = ConstantEngine()\n")
    for spec in (f"{file}:engine", {"kind": f"{file}:engine"}):
        assert engine_identity(make_engine(spec), spec) == {"the code in made.py": source_hash(file)}
    assert code_identity(["corpus", "simulated:tiny", 0.5, f"{file}:engine"]) == {
        "the code in made.py": source_hash(file)
    }
    assert engine_identity(make_engine("simulated:tiny"), "simulated:tiny").keys() == {"the simulation LLM"}


# code


def code_hash(target: object) -> str:
    file = source_file(target)
    assert file is not None
    return source_hash(file)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_code_of_an_agent_includes_the_modules_next_to_it(modules: Path) -> None:
    (modules / "own_agent.py").write_text("from own_prompts import ASK\nimport json\ndef agent(o, i): return ASK\n")
    (modules / "own_prompts.py").write_text("import own_words\nASK = 'a'\n")
    (modules / "own_words.py").write_text("")
    (modules / "own_other.py").write_text("")
    from own_agent import agent  # type: ignore[import-not-found]

    seen = [code_hash(agent), code_hash(partial(agent, 1))]
    assert seen[0] == seen[1] != ""
    (modules / "own_other.py").write_text("# not imported")
    assert code_hash(agent) == seen[0]
    for name in ("own_agent", "own_prompts", "own_words"):
        with (modules / f"{name}.py").open("a") as file:
            file.write("# changed\n")
        seen.append(code_hash(agent))
    assert len(set(seen)) == 4


def test_the_code_in_a_package_is_followed_within_the_package(modules: Path) -> None:
    for name, text in {
        "own_pack/__init__.py": "",
        "own_pack/inner/__init__.py": "from .. import words",
        "own_pack/inner/agent.py": "from ..tools import ask\nimport own_out\nclass Agent: pass",
        "own_pack/tools.py": "def ask(): pass",
        "own_pack/words.py": "",
        "own_out.py": "",
    }.items():
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_text(text)
    from own_pack.inner.agent import Agent  # type: ignore[import-not-found]

    first = code_hash(Agent())
    (modules / "own_out.py").write_text("# another package")
    assert code_hash(Agent()) == first
    (modules / "own_pack" / "words.py").write_text("# changed")
    second = code_hash(Agent)
    (modules / "own_pack" / "tools.py").write_text("# changed\n\n\n\n")
    assert len({first, second, code_hash(Agent)}) == 3


def test_code_without_a_file_has_no_source() -> None:
    space: dict[str, object] = {}
    exec("def typed(): pass", space)
    assert source_file(space["typed"]) is None
    assert source_file(len) is None
