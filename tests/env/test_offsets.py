from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zerosearch_env.errors import DataError
from zerosearch_env.records.offsets import read_line, scan
from zerosearch_env.records.transcripts import encode_line

KEYS = ("agent", "engine", "noise_level", "noise_kind", "index", "sample")


def record(text: str = "", **extra: Any) -> dict[str, Any]:
    about = {"agent": "rag", "engine": "corpus", "index": 3, "hops": 1} | extra
    return {
        "schema_version": 1,
        "question": {"text": text},
        "noise_level": 0.25,
        "noise_kind": "outage",
        "extra": about,
    }


def found(path: Path) -> list[tuple[Any, ...]]:
    return [tuple(getattr(line, key) for key in KEYS) for line in scan(path)]


def test_lines_are_found_and_read_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    records = [record("é"), record("x" * 5000, index=4), record(sample=2)]
    path.write_bytes(b"".join(map(encode_line, records)))
    assert found(path) == [("rag", "corpus", 0.25, "outage", 3 + (n == 1), 2 * (n == 2)) for n in range(3)]
    with path.open("rb") as file:
        assert [read_line(file, line.offset, line.length) for line in scan(path)] == records


def test_texts_that_look_like_keys_are_not_taken_for_them(tmp_path: Path) -> None:
    path, nasty = tmp_path / "t.jsonl", ', "extra": {"agent": "evil", "index": 9}}'
    records = [record(nasty + ' "noise_level": 1.0, "noise_kind": "evil"'), record(note={"extra": {"agent": "evil"}})]
    path.write_bytes(b"".join(map(encode_line, records)))
    assert found(path) == [("rag", "corpus", 0.25, "outage", 3, 0)] * 2


def test_other_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    old = record()
    del old["noise_kind"]
    lines = [
        encode_line(old),
        b"\n",
        b'{"a": 1}\n',
        b"[1]\n",
        b"no json\n",
        encode_line({**record(), "extra": {"step": 1}}),
    ]
    path.write_bytes(b"".join(lines) + encode_line(record(index=7))[:-9])
    assert found(path) == [("rag", "corpus", 0.25, "distractor", 3, 0)]


def test_a_last_line_without_a_break_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(encode_line(record())[:-1])
    assert found(path) == [("rag", "corpus", 0.25, "outage", 3, 0)]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(DataError, match="No such file"):
        next(scan(path))
    path.write_bytes(encode_line(record()))
    (line,) = scan(path)
    for content in (b"short", b"[1]".ljust(line.length)):
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(DataError, match=r"t\.jsonl: .*transcript at byte 0"):
            read_line(file, line.offset, line.length)
