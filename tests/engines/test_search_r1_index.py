"""Search-R1's index of Wikipedia as it is published: vectors written by faiss, and a corpus of JSON lines."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss", reason="faiss is not installed (extra dense)")

import faiss
from dense_fakes import PASSAGES, HashEncoder, ask

from zerosearch_env.engines import DenseEngine, check_engine, make_engine
from zerosearch_env.engines.dense.build import build_index
from zerosearch_env.engines.dense.index import scaled
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.answers import contains_answer
from zerosearch_env.types import Document


class E5(HashEncoder):
    """Tells queries and passages apart by their prefixes, which must be there."""

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        assert all(text.startswith(("query: ", "passage: ")) for text in texts)
        return super().encode_queries([text.partition(": ")[2] for text in texts])


def write(folder: Path, passages: Sequence[Document] = PASSAGES, *, end: str = "\n") -> Path:
    """Write the two files as Search-R1's `index_builder.py` does."""
    folder.mkdir()
    contents = [f'"{passage.title}"\n{passage.text}' for passage in passages]
    rows = [json.dumps({"id": str(i), "contents": text}) for i, text in enumerate(contents)]
    (folder / "wiki-18.jsonl").write_text("\n".join(rows) + end)
    index = faiss.index_factory(64, "Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(scaled(HashEncoder().encode_passages(contents, batch_size=1), True))
    faiss.write_index(index, str(folder / "e5_Flat.index"))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("search-r1") / "wiki")


@pytest.fixture(scope="module")
def engine(files: Path) -> DenseEngine:
    return DenseEngine(files, encoder=E5())


def test_the_files_give_what_an_index_of_ours_gives(engine: DenseEngine, tmp_path: Path) -> None:
    build_index(PASSAGES, tmp_path / "index", HashEncoder())
    ours = DenseEngine(tmp_path / "index", encoder=HashEncoder())
    requests = [ask(f"Where was {d.title} born?", d.text.split()[-1][:-1], seed=i) for i, d in enumerate(PASSAGES)]
    requests += [ask(request.query, *request.answers, noisy=True, seed=7) for request in requests]
    for result, expected in zip(engine.search(requests), ours.search(requests), strict=True):
        assert [(d.title, d.text, d.score) for d in result.documents] == [
            (d.title, d.text, d.score) for d in expected.documents
        ]
    assert engine.search(requests[:1])[0].documents[0].source == "0"


def test_it_conforms_and_noise_has_no_answer(engine: DenseEngine) -> None:
    requests = [
        ask(f"Where was {d.title} born?", d.text.split()[-1][:-1], top_k=3, seed=i) for i, d in enumerate(PASSAGES)
    ]
    check_engine(engine, requests[:20])
    noisy = [ask(request.query, *request.answers, noisy=True, seed=request.seed) for request in requests]
    for request, result in zip(noisy, engine.search(noisy), strict=True):
        assert len(result.documents) == 5
        assert not any(contains_answer(f"{d.title} {d.text}", request.answers) for d in result.documents)


@pytest.mark.parametrize("end", ["\n", ""])
def test_each_file_can_be_named_and_the_last_line_may_lack_its_end(tmp_path: Path, end: str) -> None:
    folder = write(tmp_path / "wiki", end=end)
    index, corpus = str(folder / "e5_Flat.index"), str(folder / "wiki-18.jsonl")
    engine = make_engine({"kind": "dense", "index": index, "corpus": corpus, "encoder": E5()})
    assert isinstance(engine, DenseEngine)
    assert [(p.title, p.text) for p in engine.passages] == [(p.title, p.text) for p in PASSAGES]
    copy = pickle.loads(pickle.dumps(engine.passages))
    assert copy[-1] == engine.passages[-1]
    assert set(engine.identity()) == {"the index e5_Flat.index", "the corpus file wiki-18.jsonl"}


def test_lines_are_looked_for_once(
    files: Path, engine: DenseEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    DenseEngine(files, encoder=E5())
    assert "looking for the lines" not in capsys.readouterr().err
    monkeypatch.setenv("ZEROSEARCH_CACHE", "/proc/nowhere")  # cannot be written
    again = DenseEngine(files, encoder=E5())
    assert "looking for the lines of" in capsys.readouterr().err
    assert again.passages[3] == engine.passages[3]


def test_a_corpus_that_does_not_belong_to_the_index_is_refused(tmp_path: Path) -> None:
    shorter, other = write(tmp_path / "shorter", PASSAGES[:100]), write(tmp_path / "other", PASSAGES[::-1])
    index = write(tmp_path / "wiki") / "e5_Flat.index"
    with pytest.raises(ConfigError, match=r"has 120 vectors and .* has 100 lines; expected one vector per line"):
        DenseEngine(index, corpus=shorter / "wiki-18.jsonl", encoder=E5())
    with pytest.raises(ConfigError, match=r"row 1 .* have a cosine of .*lines in the same order"):
        DenseEngine(index, corpus=other / "wiki-18.jsonl", encoder=E5())


def test_another_encoder_is_refused(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"by 'other' have a cosine of .*expected at least 0\.9"):
        DenseEngine(files, encoder=E5("other", salt="x"))
    with pytest.raises(ConfigError, match=r"'hash' gives vectors of 32 numbers, and those in .* have 64"):
        DenseEngine(files, encoder=E5(dimension=32))


def test_other_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "wiki")
    index, corpus = folder / "e5_Flat.index", folder / "wiki-18.jsonl"
    with pytest.raises(ConfigError, match=r"holds vectors only: give its passages too.*wiki-18\.jsonl"):
        DenseEngine(index)
    with pytest.raises(DataError, match=r"there is no .*wiki-19\.jsonl"):
        DenseEngine(index, corpus=folder / "wiki-19.jsonl")
    with pytest.raises(ConfigError, match="unpack it with `gzip -d`"):
        DenseEngine(index, corpus=folder / "wiki-18.jsonl.gz")
    (folder / "nq.jsonl").touch()
    with pytest.raises(
        ConfigError, match=r"one \.index file and one \.jsonl file .*got e5_Flat\.index, nq\.jsonl, wiki"
    ):
        DenseEngine(folder)
    faiss.write_index(faiss.IndexFlatL2(64), str(index))
    with pytest.raises(ConfigError, match="is an IndexFlatL2; expected an IndexFlatIP"):
        DenseEngine(index, corpus=corpus)
    index.write_bytes(b"IxFI")
    with pytest.raises(DataError, match=r"e5_Flat\.index cannot be read: .* Copy it again\."):
        DenseEngine(index, corpus=corpus)


def test_a_row_in_another_form_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "wiki")
    corpus = folder / "wiki-18.jsonl"
    corpus.write_text(corpus.read_text().replace('"contents"', '"body"'))
    with pytest.raises(DataError, match=r'row \d+ is damaged: .* Expected \{"id": \.\.\., "contents": \.\.\.\}'):
        DenseEngine(folder, encoder=E5())
