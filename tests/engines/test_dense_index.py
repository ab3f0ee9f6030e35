"""Building an index, going on after an interruption, opening damaged ones, and the command `zerosearch index`."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss", reason="faiss is not installed (extra dense)")

from dense_fakes import PASSAGES, HashEncoder, ask

from zerosearch_env import cli
from zerosearch_env.engines import DenseEngine
from zerosearch_env.engines.dense import build as dense_build
from zerosearch_env.engines.dense import encoders
from zerosearch_env.engines.dense.build import BuildOptions, build_index, passage_text
from zerosearch_env.engines.dense.manifest import DenseManifest
from zerosearch_env.engines.dense.source import BuiltIndex
from zerosearch_env.engines.indexes.folder import building_folder, read_manifest, verify_files
from zerosearch_env.engines.indexes.passage_store import PassageStore, write_passages
from zerosearch_env.errors import ConfigError, DataError, EngineError, MissingExtraError
from zerosearch_env.types import Document


class Interrupted(HashEncoder):
    """Stops, like a person pressing Ctrl-C, at the block of passages with a given number."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> np.ndarray:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().encode_passages(texts, batch_size=batch_size)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    build_index(PASSAGES, tmp_path / "index", HashEncoder())
    return tmp_path / "index"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_index_is_whole_and_says_what_it_is(built: Path) -> None:
    assert names(built) == {"index.json", "index.faiss", "passages.jsonl", "offsets.npy"}
    assert names(built.parent) == {"index"}
    manifest = read_manifest(built, DenseManifest)
    verify_files(built, manifest)
    assert (manifest.format, manifest.kind, manifest.passages, manifest.dimension) == (1, "flat", 120, 64)
    assert (manifest.metric, manifest.encoder, manifest.template) == ("cosine", "hash", "{title}\n{text}")
    assert manifest.libraries["numpy"] == np.__version__
    assert list(PassageStore(built)) == PASSAGES


def test_an_interrupted_build_goes_on_and_ends_the_same(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_build, "_BLOCK", 10)
    options = BuildOptions(shard=30)
    output = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        build_index(PASSAGES, output, Interrupted(at=8), options)  # two shards of three blocks, and two blocks more
    assert not output.exists()
    with pytest.raises(DataError, match="there is an unfinished build next to it"):
        DenseEngine(output, encoder=HashEncoder())
    seen: list[tuple[str, int, int]] = []
    second = HashEncoder()
    build_index(PASSAGES, output, second, options, progress=lambda *report: seen.append(report))
    assert seen[:2] == [("reading", 120, 120), ("embedding", 60, 120)]
    assert [done for stage, done, _ in seen if stage == "embedding"] == [60, 70, 80, 90, 100, 110, 120]
    embedded = [text for text in second.seen if text.endswith(".") and "born" in text]
    assert len(embedded) == 60
    assert not building_folder(output).exists()
    assert (output / "index.faiss").read_bytes() == (built / "index.faiss").read_bytes()


def test_half_a_shard_on_disk_is_embedded_again(built: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        build_index(PASSAGES, output, Interrupted(at=0), BuildOptions(shard=30))
    (building_folder(output) / "vectors.f32").write_bytes(bytes(64 * 4 * 17 + 3))
    build_index(PASSAGES, output, HashEncoder(), BuildOptions(shard=30))
    assert (output / "index.faiss").read_bytes() == (built / "index.faiss").read_bytes()


def test_embeddings_that_are_done_serve_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(dense_build, "_index", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_index(PASSAGES, output, HashEncoder())
    build_index(PASSAGES, output, Interrupted(at=0), BuildOptions(kind="ivf"))
    assert read_manifest(output, DenseManifest).kind == "ivf"


@pytest.mark.parametrize(
    ("passages", "encoder", "options", "named"),
    [
        (PASSAGES[:100], HashEncoder(), BuildOptions(), "passages"),
        (PASSAGES, HashEncoder("other"), BuildOptions(), "encoder"),
        (PASSAGES, HashEncoder(salt="changed"), BuildOptions(), "encoder"),
        (PASSAGES, HashEncoder(), BuildOptions(passage_prefix="p: ", normalize=False), "passage_prefix, normalize"),
    ],
)
def test_an_unfinished_build_of_something_else_is_not_mixed_in(
    tmp_path: Path, passages: list[Document], encoder: HashEncoder, options: BuildOptions, named: str
) -> None:
    output = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        build_index(PASSAGES, output, Interrupted(at=0))
    with pytest.raises(ConfigError, match=rf"other values of: {named}\. .*--restart"):
        build_index(passages, output, encoder, options)
    manifest = build_index(passages, output, encoder, options, restart=True)
    assert manifest.passages == len(passages)
    assert manifest.encoder == encoder.name


def test_an_index_is_replaced_only_on_demand_and_only_by_a_whole_one(built: Path) -> None:
    with pytest.raises(ConfigError, match=r"already holds an index.*--overwrite"):
        build_index(PASSAGES[:50], built, HashEncoder())
    with pytest.raises(KeyboardInterrupt):
        build_index(PASSAGES[:50], built, Interrupted(at=0), overwrite=True)
    assert len(BuiltIndex(built).open()) == 120
    build_index(PASSAGES[:50], built, HashEncoder(), overwrite=True)
    assert len(BuiltIndex(built).open()) == 50
    assert names(built.parent) == {"index"}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="exists and is not an index: choose another output folder"):
        build_index(PASSAGES, tmp_path, HashEncoder(), overwrite=True)


def test_no_passages_and_vectors_that_are_no_numbers(tmp_path: Path) -> None:
    class Broken(HashEncoder):
        def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> np.ndarray:
            return np.full((len(texts), 64), np.nan, np.float32)

    with pytest.raises(ConfigError, match="no passages to index"):
        build_index([], tmp_path / "index", HashEncoder())
    with pytest.raises(EngineError, match="'hash' returned invalid vectors for passages 0 to 119"):
        build_index(PASSAGES, tmp_path / "index", Broken())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hnws"}, "Did you mean 'hnsw'"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"shard": True}, "shard must be"),
        ({"template": "{title}"}, r"must contain \{text\}"),
    ],
)
def test_unusable_build_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildOptions(**options)  # type: ignore[arg-type]


def test_prefixes_and_template_reach_the_encoder(tmp_path: Path) -> None:
    encoder = HashEncoder()
    encoder.passage_prompt = "passage: "
    options = BuildOptions(template="[{title}] {text}", query_prefix="query: ", normalize=False)
    build_index([*PASSAGES, Document("", "{no} title {text}", "x")], tmp_path / "index", encoder, options)
    assert "passage: [Cora number 3] Cora number 3 was born in Arlon." in encoder.seen
    assert "passage: {no} title {text}" in encoder.seen
    asked = HashEncoder()
    engine = DenseEngine(tmp_path / "index", encoder=asked)
    (result,) = engine.search([ask("Cora number 3")])
    assert asked.seen[-1] == "query: Cora number 3"
    assert result.documents[0].score == int(result.documents[0].score or 0.5)
    assert (result.documents[0].score or 0) > 1


def test_a_title_or_text_with_braces_is_text() -> None:
    assert passage_text(Document("{text}", "{title}", "x"), "{title}: {text}", "") == "{text}: {title}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def scramble(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 0x55 for byte in path.read_bytes()))


def edit(**changes: object) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        row = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in row.items() if value is not None}))

    return apply


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("index.json", Path.unlink, "holds no index.json"),
        ("index.json", truncate, "is damaged"),
        ("index.json", edit(format=99), "has format 99, and this version of the package reads format 1"),
        ("index.json", edit(encoder=None, kind=None), "lacks encoder, kind"),
        ("index.json", edit(passages=119), "promises 119 passages"),
        ("index.faiss", Path.unlink, "is missing"),
        ("index.faiss", truncate, "bytes instead of"),
        ("index.faiss", scramble, "cannot be read"),
        ("passages.jsonl", truncate, "bytes instead of"),
        ("offsets.npy", scramble, "cannot be read"),
    ],
)
def test_a_damaged_index_is_not_opened(built: Path, file: str, damage: Callable[[Path], None], message: str) -> None:
    damage(built / file)
    with pytest.raises(DataError, match=message):
        DenseEngine(built, encoder=HashEncoder())


def test_a_damaged_passage_is_named_when_it_is_read_and_found_by_its_digest(built: Path) -> None:
    scramble(built / "passages.jsonl")
    with pytest.raises(DataError, match=r"passages.jsonl, row \d+ is damaged"):
        DenseEngine(built, encoder=HashEncoder()).search([ask("Ada")])
    with pytest.raises(DataError, match="has changed since the index was built"):
        verify_files(built, read_manifest(built, DenseManifest))


def test_passages_come_back_as_they_were(tmp_path: Path) -> None:
    strange = [Document("ü\n\x00", "日本 \ud800 x", "é"), Document("", "", ""), Document("a", "b" * 5000, "c")]
    assert write_passages(tmp_path, strange) == 3
    store = PassageStore(tmp_path)
    assert list(store) == strange
    assert store[-1] == strange[2]
    assert store[:2] == strange[:2]
    assert list(pickle.loads(pickle.dumps(store))) == strange
    with pytest.raises(IndexError, match="3 passages, so index 3"):
        store[3]
    (tmp_path / "passages.jsonl").write_bytes(b"{}\n")
    with pytest.raises(DataError, match=r"does not match offsets\.npy"):
        PassageStore(tmp_path)


def test_the_command_builds_shows_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "SentenceEncoder", lambda name, *, device: HashEncoder(name))
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "index"
    rows = [{"id": d.source, "contents": f'"{d.title}"\n{d.text}'} for d in PASSAGES]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["index", "build", "dense", "--encoder", "some/encoder", "--output", str(output)]
    options = ["--kind", "hnsw", "--batch-size", "8", "--query-prefix", "q: ", "--no-normalize"]
    assert cli.main([*command, "--corpus", str(corpus), *options]) == 0
    out = capsys.readouterr().out
    assert "120/120" in out
    assert f"dense:{output}" in out.replace("\n", "")
    manifest = read_manifest(output, DenseManifest)
    assert (manifest.kind, manifest.query_prefix, manifest.metric) == ("hnsw", "q: ", "inner_product")
    assert cli.main(["index", "info", str(output), "--verify"]) == 0
    assert "some/encoder" in capsys.readouterr().out
    assert cli.main([*command, "--world", "200", "--overwrite"]) == 0
    assert read_manifest(output, DenseManifest).passages == 200
    scramble(output / "passages.jsonl")
    assert cli.main(["index", "info", str(output), "--verify"]) == 2
    assert "has changed" in capsys.readouterr().err


def test_the_command_stopped_by_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "SentenceEncoder", lambda name, *, device: Interrupted(at=0))
    assert (
        cli.main(["index", "build", "dense", "--encoder", "e", "--output", str(tmp_path / "i"), "--world", "200"])
        == 130
    )
    assert "run the same command again to continue" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bild"], "Did you mean 'build'"),
        (["build", "dense", "--encoder", "e", "--output", "o"], "--corpus FILE or --world NUMBER"),
        (["build", "bm25", "--output", "o", "--world", "3", "--corpus", "c"], "exactly one source"),
        (["info", "nowhere"], "is not an index"),
        (["build", "dens"], "Did you mean 'dense'"),
    ],
)
def test_the_command_used_wrongly(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["index", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_wrong_options_are_found_before_the_encoder_is_loaded(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "SentenceEncoder", lambda name, *, device: pytest.fail("the encoder was loaded"))
    command = ["index", "build", "dense", "--encoder", "e"]
    assert cli.main([*command, "--output", str(built), "--world", "200"]) == 2
    assert "already holds an index" in capsys.readouterr().err
    (built.parent / "empty.jsonl").touch()
    assert cli.main([*command, "--output", "o", "--corpus", str(built.parent / "empty.jsonl")]) == 2
    assert "has no passages" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"zerosearch-env\[dense\]"):
        DenseEngine(built, encoder=HashEncoder())
