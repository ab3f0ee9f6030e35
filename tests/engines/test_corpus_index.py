"""BM25 indexes in a folder: building, continuing, opening, damaged ones, the cache folder, and the commands."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_env import cli
from zerosearch_env.engines import CorpusEngine, check_engine, make_engine
from zerosearch_env.engines.corpus import build, passages
from zerosearch_env.engines.corpus.build import Bm25Manifest, build_folder, build_index
from zerosearch_env.engines.corpus.passages import PassageIndex, open_index
from zerosearch_env.engines.indexes import cache
from zerosearch_env.engines.indexes.folder import building_folder, read_manifest, verify_files
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.types import Document, Paragraph, SearchRequest, full_text

rng = random.Random(3)
NAMES = ["Ada", "Bea", "Cora", "Dörte", "Elsa", "方", "Gil", "Hal"]
PASSAGES = [
    Document(f"{name}{number}", " ".join(rng.choices(NAMES, k=12)) + f" met in town {number % 7}.", f"p{number}")
    for number in range(50)
    for name in NAMES
]
few = settings(max_examples=20)
FILES = {"words.npy", "starts.npy", "strongest.npy", "passages.npy", "impacts.npy"}


def ask(query: str, *, noisy: bool | tuple[bool, ...] = False, seed: int = 0) -> SearchRequest:
    return SearchRequest(query, query, ("Elsa",), noisy=noisy, top_k=3, seed=seed)


@pytest.fixture(autouse=True, scope="module")
def _unsynced() -> Iterator[None]:
    """Do not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def built(tmp_path: Path) -> Path:
    build_folder(PASSAGES, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few dozen passages, and blocks of a few words."""
    monkeypatch.setattr(build, "_TOKEN_BYTES", 32_000_000 // 3000)
    monkeypatch.setattr(build, "_POSTING_BYTES", 32_000_000 // 500)
    monkeypatch.setattr(build, "_resident", lambda: 2_000_000_000)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_complete_and_describes_itself(built: Path) -> None:
    assert set(contents(built)) == {"index.json", "passages.jsonl", "offsets.npy"} | FILES
    assert [path.name for path in built.parent.iterdir()] == ["index"]
    manifest = read_manifest(built, Bm25Manifest)
    verify_files(built, manifest)
    index = build_index(map(full_text, PASSAGES))
    assert (manifest.kind, manifest.passages, manifest.words) == ("bm25", 400, len(index.words))
    assert manifest.postings == len(index.passages)
    assert list(open_index(built).passages) == PASSAGES


word = st.sampled_from(["a", "the", "Ünal", "方", "x1", "’s", "-"])


@few
@given(st.lists(st.lists(word, max_size=8).map(" ".join), max_size=30), st.integers(1, 40), st.integers(1, 20))
def test_runs_and_blocks_of_any_size_give_the_same_index(texts: list[str], run: int, block: int) -> None:
    whole = build_index(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_TOKENS", run)
        patch.setattr(build, "_POSTINGS", block)
        parts = build_index(texts)
    for name in ("words", "starts", "strongest", "passages", "impacts"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
    assert parts.size == len(texts)


@few
@given(
    st.lists(st.lists(word, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=20),
    st.lists(word, max_size=6).map(" ".join),
    st.integers(1, 25),
)
def test_a_mapped_index_ranks_like_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], query: str, depth: int
) -> None:
    documents = [Document("", text, str(number)) for number, text in enumerate(texts)]
    folder = tmp_path_factory.mktemp("any") / "index"
    build_folder(documents, folder)
    mapped, memory = (index.bm25.rank([query], depth)[0] for index in (open_index(folder), PassageIndex(documents)))
    assert mapped.ids.tolist() == memory.ids.tolist()
    assert mapped.scores.tolist() == memory.scores.tolist()


@pytest.mark.usefixtures("small_runs")
def test_little_memory_gives_the_same_files(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TOKEN_BYTES", 1)
    build_folder(PASSAGES, tmp_path / "whole", memory=1024)
    assert contents(built) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small_runs")
def test_an_interrupted_build_continues_after_the_last_run(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build._sorted_run
    calls: list[int] = []

    def stop_at_third(*arguments: object) -> object:
        calls.append(arguments[3])  # type: ignore[arg-type]  # the number of the first passage
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "_sorted_run", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build_folder(PASSAGES, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(DataError, match="there is an unfinished build next to it"):
        make_engine(f"corpus:{tmp_path / 'again'}")
    with pytest.raises(ConfigError, match=r"other values of: passages\. .*--restart"):
        build_folder(PASSAGES[:-1], tmp_path / "again")
    seen: list[tuple[str, int, int | None]] = []
    build_folder(PASSAGES, tmp_path / "again", progress=lambda *report: seen.append(report))
    assert calls[3] == calls[2] > 0
    assert seen[:2] == [("reading", 400, 400), ("indexing", calls[3], 400)]
    assert seen[-1][0] == "merging"
    assert seen[-1][1] == seen[-1][2]
    assert contents(built) == contents(tmp_path / "again")
    assert not building_folder(tmp_path / "again").exists()


def test_the_engine_gives_the_same_documents_from_a_folder(built: Path) -> None:
    mapped, memory = make_engine(f"corpus:{built}"), CorpusEngine(PASSAGES, paragraphs=False)
    masks: list[bool | tuple[bool, ...]] = [False, True, (True, False, True)]
    requests = [
        ask(query, noisy=noisy, seed=seed) for query in ("Ada7", "met", "zzz") for noisy in masks for seed in (1, 2)
    ]
    for ours, theirs in zip(mapped.search(requests), memory.search(requests), strict=True):
        assert (ours.documents, ours.failure) == (theirs.documents, theirs.failure)
    check_engine(mapped)
    copy = pickle.loads(pickle.dumps(mapped))
    assert copy.search(requests[:1])[0].documents == mapped.search(requests[:1])[0].documents
    assert len(pickle.dumps(mapped)) < 5_000


def test_own_paragraphs_are_searched_and_filled_up_from_the_folder(built: Path) -> None:
    own = (Paragraph("Own", "Ada met nobody.", True), Paragraph("Other", "Bea met Ada.", False))
    engine = make_engine({"kind": "corpus", "path": str(built), "paragraphs": True})
    (result,) = engine.search([replace(ask("Ada", noisy=(False, True, True)), paragraphs=own)])
    assert [document.source.partition("-")[0] for document in result.documents] == ["paragraph"] * 2 + ["p"] or (
        result.documents[0].title == "Own"
    )
    assert len(result.documents) == 3


def test_identity_is_the_content(built: Path, tmp_path: Path) -> None:
    engine = make_engine(f"corpus:{built}")
    build_folder(PASSAGES, tmp_path / "other" / "index")
    same = make_engine(f"corpus:{tmp_path / 'other' / 'index'}")
    build_folder(PASSAGES[1:], tmp_path / "less" / "index")
    less = make_engine(f"corpus:{tmp_path / 'less' / 'index'}")
    identities = [item.identity() for item in (engine, same, less)]  # type: ignore[attr-defined]
    assert list(identities[0]) == ["the index index"]
    assert identities[0] == identities[1] != identities[2]


def test_options_that_are_not_those_of_the_folder(tmp_path: Path) -> None:
    build_folder(PASSAGES, tmp_path / "index", k1=1.2, b=0.5)
    make_engine({"kind": "corpus", "path": str(tmp_path / "index"), "k1": 1.2})
    with pytest.raises(ConfigError, match=r"was built with b=0\.5, so b=0\.75 is not possible"):
        make_engine({"kind": "corpus", "path": str(tmp_path / "index"), "b": 0.75})
    with pytest.raises(ConfigError, match="describe a corpus file"):
        make_engine({"kind": "corpus", "path": str(tmp_path / "index"), "on_bad_row": "skip"})
    with pytest.raises(ConfigError, match="memory must be a finite number of at least 200"):
        build_folder(PASSAGES, tmp_path / "more", memory=100)
    with pytest.raises(ConfigError, match="no passages"):
        build_folder([], tmp_path / "more")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def scramble(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 0x55 for byte in path.read_bytes()))


def edit(**changes: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes)) and None


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("index.json", truncate, "is damaged"),
        ("index.json", edit(format=99), "has format 99"),
        ("index.json", edit(kind="flat"), 'is a dense index: open it with search_engine="dense:'),
        ("index.json", edit(words=1), "promises 400 passages with 1 words"),
        ("words.npy", Path.unlink, "is missing"),
        ("impacts.npy", truncate, "bytes instead of"),
        ("starts.npy", scramble, "cannot be read"),
        ("passages.jsonl", truncate, "bytes instead of"),
    ],
)
def test_a_damaged_folder_is_not_opened(built: Path, file: str, damage: Callable[[Path], None], message: str) -> None:
    damage(built / file)
    with pytest.raises(DataError, match=message):
        make_engine(f"corpus:{built}")


def test_posting_lists_that_do_not_match(built: Path) -> None:
    starts = np.load(built / "starts.npy")
    np.save(built / "starts.npy", starts[::-1])
    with pytest.raises(DataError, match="do not match"):
        make_engine(f"corpus:{built}")


def test_a_bm25_index_is_not_opened_as_a_dense_one(built: Path) -> None:
    with pytest.raises(DataError, match='is a BM25 index: open it with search_engine="corpus:'):
        make_engine(f"dense:{built}")


# the cache folder


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in which every index is kept."""
    monkeypatch.setenv("ZEROSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(passages, "_CACHED_PASSAGES", 1)
    monkeypatch.setattr(passages, "_CACHED_BYTES", 1)
    monkeypatch.setattr(passages, "_OF_FILES", {})
    return tmp_path / "cache"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are built."""
    folders: list[Path] = []

    def counted(rows: Sequence[Document], folder: Path, **options: object) -> Bm25Manifest:
        folders.append(folder)
        return build_folder(rows, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(passages, "build_folder", counted)
    return folders


def write_corpus(path: Path, documents: Sequence[Document] = PASSAGES) -> Path:
    rows = [{"id": d.source, "title": d.title, "text": d.text} for d in documents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_index_of_a_file_is_built_once(
    kept: Path, builds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_corpus(tmp_path / "corpus.jsonl")
    first = make_engine(f"corpus:{file}")
    assert "building the search index, which is kept in" in capsys.readouterr().err
    passages._OF_FILES.clear()  # as in another process
    second = make_engine(f"corpus:{file}")
    assert len(builds) == 1
    assert capsys.readouterr().err == ""
    memory = CorpusEngine(PASSAGES, paragraphs=False)
    request = ask("Ada met Bea", noisy=True)
    expected = memory.search([request])[0].documents
    assert [engine.search([request])[0].documents for engine in (first, second)] == [expected] * 2
    assert list(first.identity()) == ["the corpus file corpus.jsonl"]  # type: ignore[attr-defined]
    write_corpus(file, PASSAGES[1:])
    make_engine(f"corpus:{file}")
    make_engine({"kind": "corpus", "path": str(file), "k1": 1.0})
    assert len(set(builds)) == len(builds) == 4


def test_the_index_of_passages_in_memory_is_built_once_and_repaired(kept: Path, builds: list[Path]) -> None:
    for damage in (False, True, False):
        if damage:
            truncate(builds[0] / "impacts.npy")
        engine = CorpusEngine(list(PASSAGES), paragraphs=False)
        assert engine.search([ask("Ada7")])[0].documents[0].title == "Ada7"
    assert builds == [builds[0]] * 2


def test_builders_at_the_same_time_build_once(kept: Path, builds: list[Path]) -> None:
    from zerosearch_env.locks import locked

    engines = [CorpusEngine(list(PASSAGES), paragraphs=False) for _ in range(3)]
    threads = [threading.Thread(target=engine.search, args=([ask("Ada")],)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    with locked(
        builds[0].parent, waiting=lambda: pytest.fail("nobody else holds it")
    ):  # held, and the index is there: nothing waits
        CorpusEngine(list(PASSAGES), paragraphs=False).search([ask("Ada")])


def test_a_cache_that_cannot_be_written_costs_only_the_reuse(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.write_text("a file where the folder should be")
    file = write_corpus(tmp_path / "corpus.jsonl")
    with caplog.at_level(logging.WARNING):
        engine = make_engine(f"corpus:{file}")
    assert engine.search([ask("Ada7")])[0].documents[0].title == "Ada7"
    assert caplog.text.count("cannot be written") == 1
    assert "in memory" in capsys.readouterr().err


def test_the_oldest_are_dropped(kept: Path, builds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_IN_USE_S", -1.0)
    monkeypatch.setattr(cache, "MOST_BYTES", 150_000)
    for start in range(3):
        CorpusEngine(PASSAGES[start:], paragraphs=False).search([ask("Ada")])
        entry = builds[-1].parent
        assert entry.is_dir()
        os.utime(entry, (start, start))
    sizes = [index.bytes for index in cache.cached_indexes()]
    assert sum(sizes) <= 150_000
    assert len(sizes) < 3


def test_the_command_shows_and_clears(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache"]) == 0
    assert "0 search indexes" in capsys.readouterr().out
    CorpusEngine(PASSAGES, paragraphs=False).search([ask("Ada")])
    assert cli.main(["cache", "stats"]) == 0
    assert "1 search index, " in (out := capsys.readouterr().out)
    assert "400 passages" in out
    assert cli.main(["cache", "clear"]) == 0
    assert "1 search index deleted" in capsys.readouterr().out
    assert cache.cached_indexes() == []


def test_the_command_builds_shows_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write_corpus(tmp_path / f"{part}.jsonl", PASSAGES[part::2])) for part in range(2)]
    output = tmp_path / "index"
    command = ["index", "build", "bm25", "--corpus", *files, "--output", str(output)]
    assert cli.main([*command, "--memory", "300"]) == 0
    out = capsys.readouterr().out
    assert "400/400" in out
    assert f'search_engine="corpus:{output}"' in out
    assert list(open_index(output).passages) == PASSAGES[::2] + PASSAGES[1::2]
    assert cli.main(command) == 2
    assert "already holds an index" in capsys.readouterr().err
    assert cli.main([*command, "--k1", "0.9", "--overwrite"]) == 0
    assert cli.main(["index", "info", str(output), "--verify"]) == 0
    assert "BM25 with k1=0.9 and b=0.75" in capsys.readouterr().out
    scramble(output / "words.npy")
    assert cli.main(["index", "info", str(output), "--verify"]) == 2
    assert "has changed" in capsys.readouterr().err


def test_a_build_stopped_by_ctrl_c_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "_sorted_run", interrupted)
    assert cli.main(["index", "build", "bm25", "--world", "200", "--output", str(tmp_path / "i")]) == 130
    assert "run the same command again to continue" in capsys.readouterr().out
