from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from zerosearch_env.errors import DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.records.transcripts import (
    TranscriptWriter,
    encode_line,
    noisy_flags,
    read_transcripts,
    transcript_record,
)
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult

QUESTION = Question("q1", "Which lake?", ("Geneva", "Lake Geneva"), "lakes", "test")


def play(unit: str = "search", level: float = 1.0) -> Episode:
    episode = Episode(QUESTION, make_rules(noise_unit=unit, top_k=2), noise_level=level, seed=5)
    request = episode.advance("<think>hm</think><search>lakes</search>")
    assert isinstance(request, SearchRequest)
    episode.observe(SearchResult((Document("A", "first \x1b[31m", "a", 2.5), Document("", "second \ud800"))))
    return episode


def test_a_record_says_everything_and_is_json() -> None:
    episode = play()
    open_record = json.loads(json.dumps(transcript_record(episode)))
    assert (open_record["stop_reason"], open_record["scores"], open_record["error"]) == (None, None, None)
    episode.advance("<answer>the lake geneva</answer>")
    record = json.loads(json.dumps(transcript_record(episode, agent="me", step=3)))
    assert record["schema_version"] == 1
    assert record["protocol"] == "zerosearch"
    assert record["question"] == {"id": "q1", "text": "Which lake?", "dataset": "lakes", "split": "test"}
    assert record["answers"] == ["Geneva", "Lake Geneva"]
    assert (record["noise_level"], record["seed"], record["prompt"]) == (1.0, 5, episode.prompt)
    search, answer = record["turns"]
    assert (search["turn"], search["action"], search["query"], search["noisy"]) == (1, "search", "lakes", True)
    assert search["documents"][0] == {"title": "A", "text": "first \x1b[31m", "source": "a", "score": 2.5}
    assert search["documents"][1]["score"] is None
    assert search["answer_in_documents"] is False
    assert "first" in search["observation"]
    assert (answer["action"], answer["noisy"], answer["documents"]) == ("answer", None, [])
    assert answer["action_text"] == "<answer>the lake geneva</answer>"
    assert record["stop_reason"] == "answer"
    assert record["scores"] == {
        "prediction": "the lake geneva",
        "em": 1.0,
        "f1": 1.0,
        "subem": 1.0,
        "em_unicode": 1.0,
        "f1_unicode": 1.0,
        "reward": 1.0,
        "misled": 0.0,
        "abstained": 0.0,
        "hallucinated": 0.0,
        "searches": 1,
        "counterfactual": None,
    }
    assert record["extra"] == {"agent": "me", "step": 3}
    assert episode.text == record["prompt"] + "".join(t["action_text"] + t["observation"] for t in record["turns"])


def test_noise_of_documents() -> None:
    turn = transcript_record(play("document"))["turns"][0]
    assert turn["noisy"] == [True, True]
    assert noisy_flags(turn) == [True, True]
    assert noisy_flags({"noisy": [True], "documents": [1, 2]}) == [True, False]
    assert noisy_flags({"noisy": [True, True], "documents": [1]}) == [True]
    assert noisy_flags({"noisy": True, "documents": [1, 2]}) == [True, True]
    assert noisy_flags({"noisy": None, "documents": []}) == []


def test_written_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "t.jsonl"
    records = [transcript_record(play(), text="né ✓ \u2028"), transcript_record(play("document"))]
    with TranscriptWriter(path) as writer:
        for record in records:
            writer.write(record)
    with TranscriptWriter(path) as writer:
        writer.write(records[0])
    assert list(read_transcripts(path)) == [*records, records[0]]
    assert path.read_bytes().count(b"\n") == 3


def test_surrogates_are_escaped_and_the_rest_stays_readable() -> None:
    assert encode_line({"a": "né"}) == '{"a": "né"}\n'.encode()
    assert encode_line({"a": "\ud800"}) == b'{"a": "\\ud800"}\n'


def test_a_line_that_a_killed_writer_left_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    whole = transcript_record(play())
    line = encode_line(whole)
    for cut in (5, 40, len(line) - 2):
        path.write_bytes(line + line[:cut])
        assert list(read_transcripts(path)) == [whole]
        with TranscriptWriter(path) as writer:
            writer.write(whole)
            writer.write(whole)
        assert list(read_transcripts(path)) == [whole] * 3


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"not json\n", "line 1: not JSON"),
        (b'{"question": 1}\n', "line 1: not a transcript"),
        (b"[1]\n", "line 1: not a transcript"),
        (b'\n{"schema_version": 99}\n', "line 2: schema version 99 is newer"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        list(read_transcripts(path))


@pytest.mark.parametrize(
    "line", [b"not json", b"[1]", bytes(30), b"\xff{}", b'{"schema": 1}', pytest.param(b"[" * 9**5, id="deep")]
)
def test_damaged_lines_between_transcripts_are_left_out(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.jsonl"
    whole = transcript_record(play())
    path.write_bytes(encode_line(whole) + line + b"\n" + encode_line(whole))
    assert list(read_transcripts(path)) == [whole] * 2
    (message,) = caplog.messages
    assert message.startswith(f"{path}: 1 damaged line is left out, the first is line 2: not")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_transcripts(tmp_path / "missing.jsonl"))


def _write_many(path: Path, name: str) -> None:
    with TranscriptWriter(path) as writer:
        for number in range(50):
            writer.write({"schema_version": 1, "name": name, "number": number, "text": "x" * 20_000})


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(path, str(number))) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    records = list(read_transcripts(path))
    assert len(records) == 150
    for name in "012":
        assert [record["number"] for record in records if record["name"] == name] == list(range(50))
