from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sim_fakes import FakeBackend, ask

from zerosearch_benchmarks.speed.chat_server import documents
from zerosearch_env.cli import main
from zerosearch_env.engines import cache as result_cache
from zerosearch_env.engines.cache import ResultCache, cache_key
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.sets import SimulationOptions
from zerosearch_env.errors import CacheError
from zerosearch_env.types import Document

TWO = (Document("Title", "text \u2028 é", "s"), Document("", "more", "s"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "cache.sqlite"


def test_what_is_put_is_got(path: Path) -> None:
    cache = ResultCache(path)
    keys = [cache_key("k", n) for n in range(1200)]
    cache.put_many("e", dict.fromkeys(keys, TWO))
    cache.put_many("e", {keys[0]: TWO[:1]})
    other = ResultCache(path)
    found = other.get_many([*keys, cache_key("absent")], "s")
    assert len(found) == 1200
    assert set(found.values()) == {TWO}
    assert other.describe().entries == 1200
    assert other.describe().by_engine == {"e": 1200}
    copy = pickle.loads(pickle.dumps(cache))
    cache.close()
    assert copy.get_many(keys[:1], "s") == {keys[0]: TWO}
    assert cache.get_many(keys[:1]) == {}
    with pytest.raises(CacheError, match="closed"):
        cache.describe()
    copy.close()
    other.close()


def test_keys_differ_wherever_their_parts_do() -> None:
    parts = [("a", "b"), ("ab", ""), ("a", ["b"]), ("a", None), ("a", "b", False), ("a", "b", 0), ("\ud800", "b")]
    assert len({cache_key(*part) for part in parts}) == len(parts)


def test_keys_differ_between_versions_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache_key("a")
    monkeypatch.setattr("zerosearch_env.engines.cache.package_version", lambda: "9")
    assert cache_key("a") != key


def engine(path: Path, **options: object) -> tuple[SimulatedEngine, FakeBackend]:
    backend = FakeBackend()
    made = SimulatedEngine(backend, cache=str(path), options=SimulationOptions(**options))  # type: ignore[arg-type]
    return made, backend


def test_a_search_is_made_once(path: Path) -> None:
    first, _ = engine(path)
    requests = [ask(seed=n, noisy=n % 2 == 0) for n in range(6)] + [ask(seed=0, noisy=(True, False, True))]
    made = first.search(requests)
    first.close()
    second, backend = engine(path)
    again = second.search(requests)
    assert [result.documents for result in again] == [result.documents for result in made]
    assert backend.prompts == []
    stats = second.stats()
    assert (stats.cache_hits, stats.cache_misses, stats.hit_rate, stats.completions) == (7, 0, 1.0, 0)
    assert stats.noisy_documents == 11
    second.close()


@pytest.mark.parametrize(
    "change",
    [{"query": "q"}, {"question": "q"}, {"answers": ("x",)}, {"noisy": True}, {"top_k": 2}, {"seed": 6}],
)
def test_another_request_is_another_entry(path: Path, change: dict[str, object]) -> None:
    made, backend = engine(path)
    made.search([ask()])
    made.search([ask(**({"query": "capital of France"} | change))])
    assert len(backend.batches) == 2 or backend.batches[1:] == [1, 1]
    made.close()


def test_other_options_and_models_are_other_entries(path: Path) -> None:
    for options in ({}, {"prompt": "few-shot"}, {"temperature": 0.5}, {"max_tokens": 50}):
        made, backend = engine(path, **options)
        made.search([ask()])
        assert len(backend.prompts) == 1
        made.close()
    made, backend = engine(path)
    backend.identity = "another model"
    made.search([ask()])
    assert len(backend.prompts) == 1
    made.close()


def test_failures_are_not_kept(path: Path) -> None:
    backend = FakeBackend(lambda prompt, n: documents(prompt.text) if n >= 2 else "no")
    made = SimulatedEngine(backend, cache=str(path))
    assert made.search([ask()])[0].failure
    assert made.search([ask()])[0].failure is None
    made.close()


@pytest.mark.parametrize(
    "content", [b"this is no database at all, only text" * 40, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_a_corrupt_file_is_an_error_that_names_it(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"cache\.sqlite cannot be used.*delete the file"):
        ResultCache(path)
    assert path.read_bytes() == content


def test_somebody_else_s_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(CacheError, match="something else"):
        ResultCache(path)
    assert path.read_bytes() == before


def test_a_file_that_breaks_later_ends_no_search(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made, _ = engine(path)
    made.search([ask(seed=n, top_k=5) for n in range(300)])
    made.close()
    again, _ = engine(path)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xaa" * (path.stat().st_size - 8192))
    results = again.search([ask(seed=n, top_k=5) for n in range(300)])
    assert not [result for result in results if result.failure]
    assert again.stats().cache_errors >= 1
    assert "could not read" in caplog.text
    again.close()


def test_a_row_that_breaks_is_a_miss(path: Path) -> None:
    made, _ = engine(path)
    made.search([ask()])
    connection = sqlite3.connect(path)
    for value in ("not json", "[1]", "[]", '{"a": 1}'):
        with connection:
            connection.execute("UPDATE results SET documents = ?", (value,))
        assert made.search([ask()])[0].failure is None
    connection.close()
    assert made.stats().cache_misses == 5
    made.close()


def test_a_locked_file_is_waited_for_and_then_gone_without(path: Path) -> None:
    cache = ResultCache(path, timeout_s=0.05)
    backend = FakeBackend()
    made = SimulatedEngine(backend, cache=cache)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert made.search([ask()])[0].failure is None
    assert made.stats().cache_errors == 1, "readers do not wait, and what could not be written is left out"
    with pytest.raises(CacheError, match="locked"):
        ResultCache(path, timeout_s=0.05)
    with pytest.raises(CacheError, match="locked"):
        cache.clear()
    holder.execute("ROLLBACK")
    holder.close()
    made.search([ask()])
    made.search([ask()])
    assert made.stats().cache_hits == 1
    made.close()


def test_a_read_only_file_serves_and_keeps_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = engine(path)
    made.search([ask()])
    made.close()
    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr(result_cache.os, "access", lambda *_: False)
    again, backend = engine(path)
    again.search([ask(), ask(seed=6)])
    assert len(backend.prompts) == 1
    assert again.stats().hit_rate == 0.5
    assert again.stats().cache_errors == 0
    with ResultCache(path) as cache, pytest.raises(CacheError, match="read-only"):
        cache.clear()
    again.close()
    monkeypatch.undo()
    with ResultCache(path) as cache:
        assert cache.describe().entries == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be used"):
        ResultCache(tmp_path / "file" / "cache")
    with pytest.raises(CacheError, match="cannot be used"):
        ResultCache(tmp_path)


WRITER = """
import sys
from zerosearch_env.engines.cache import ResultCache, cache_key
from zerosearch_env.types import Document
cache, name = ResultCache(sys.argv[1]), sys.argv[2]
for n in range(10**9):
    cache.put_many("e", {cache_key(name, n): (Document("", "x" * 200),)})
    if n % 10 == 9:
        print(n, flush=True)
"""


@pytest.mark.slow
def test_many_processes_write_and_survive_being_killed(path: Path) -> None:
    ResultCache(path).close()
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("a", "b")]
    last = []
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(3):
            last.append(int(writer.stdout.readline()))
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    cache = ResultCache(path)
    keys = [cache_key(name, n) for name in ("a", "b") for n in range(30)]
    assert len(cache.get_many(keys)) == 60
    assert cache.errors == 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    cache.close()


def test_threads_share_an_engine(path: Path) -> None:
    made, _ = engine(path)
    failures: list[object] = []

    def work(start: int) -> None:
        failures.extend(r.failure for r in made.search([ask(seed=start + n) for n in range(20)]) if r.failure)

    threads = [threading.Thread(target=work, args=(10 * k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert made.stats().cache_errors == 0
    assert made.stats().searches == 120
    made.close()


def test_the_command_looks_and_clears(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = engine(path)
    made.search([ask(seed=n) for n in range(3)])
    made.close()
    assert main(["cache", "stats", str(path)]) == 0
    said = capsys.readouterr().out
    assert "3 entries" in said
    assert "simulated:fake: 3" in said
    assert main(["cache", "clear", str(path)]) == 0
    assert "3 entries deleted" in capsys.readouterr().out
    assert main(["cache", "stats", str(path)]) == 0
    assert "0 entries" in capsys.readouterr().out
    assert main(["cache", "stats", str(path) + ".absent"]) != 0
    assert "there is no cache" in capsys.readouterr().err


def test_hits_are_fast(path: Path) -> None:
    """A tenth of what the benchmark asks for: the cores are shared."""
    made, _ = engine(path)
    requests = [ask(seed=n, top_k=5) for n in range(500)]
    made.search(requests)
    began = time.process_time()
    for _ in range(4):
        made.search(requests)
    assert 2000 / (time.process_time() - began) > 2000
    made.close()
