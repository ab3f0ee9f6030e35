from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from zerosearch_agents.evaluation.episodes import EpisodeResult
from zerosearch_agents.evaluation.join import join, join_sources, read_source
from zerosearch_agents.evaluation.results import Cell, Evaluation, save_evaluation
from zerosearch_env.errors import DataError

SETTINGS = {
    **{"dataset": "world", "split": "test", "seed": 0, "max_turns": 5, "top_k": 5, "temperature": 0.0},
    "contents": {"the version of zerosearch-env": "0.2.0", "the dataset world (test)": "aa"},
    "engines": {"corpus": {"the corpus of passages": "bb"}},
}


def episode(index: int, em: float, question_id: str = "") -> EpisodeResult:
    scores = dict.fromkeys(("f1", "subem", "em_unicode", "f1_unicode"), em)
    counts = {"searches": 1, "turns": 2, "invalid": 0, "noisy": 0, "draws": 1}
    return EpisodeResult(
        index=index, question_id=question_id or f"q{index}", group="", em=em, **scores, **counts, stop_reason="answer"
    )


def folder(path: Path, agent: str, *, question_id: str = "", engine: str = "corpus", **settings) -> Path:
    episodes = (episode(0, 1.0, question_id), episode(1, 0.0))
    cells = tuple(Cell(agent, engine, level, 2, episodes) for level in (0.0, 0.5))
    save_evaluation(Evaluation(cells, {**SETTINGS, "agents": {agent: {"tag": str(path)}}, **settings}), path)
    return path


def test_agents_of_several_folders_are_in_one_evaluation(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", "rag"), folder(tmp_path / "b", "oracle", temperature=1.0)
    joined = join([first, second])
    assert joined.agents == ("rag", "oracle")
    assert len(joined.cells) == 4
    assert joined.difference("rag", "oracle", 0.5).n == 2
    assert set(joined.settings["agents"]) == {"rag", "oracle"}
    assert [entry["folder"] for entry in joined.settings["folders"]] == [str(first), str(second)]
    assert join([first]) == read_source(first).evaluation


def test_equal_names_get_the_shortest_folder_that_tells_them_apart(tmp_path: Path) -> None:
    paths = [folder(tmp_path / part / "eval", "rag") for part in ("one", "two")]
    joined = join_sources([read_source(path) for path in paths])
    assert joined.evaluation.agents == ("rag (one/eval)", "rag (two/eval)")
    keys = [cell.key for cell in joined.evaluation.cells]
    for key, path in zip(keys[::2], paths, strict=True):
        assert joined.stored(key) == (path / "transcripts/rag__corpus__noise-0.jsonl", key._replace(agent="rag"))
    assert joined.stored(keys[0]._replace(agent="rag")) is None


def test_a_run_directory_is_named_after_itself(tmp_path: Path) -> None:
    for name in ("run1", "run2"):
        folder(tmp_path / name / "evaluation", "after")
    assert join([tmp_path / "run1", tmp_path / "run2"]).agents == ("after (run1)", "after (run2)")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"max_turns": 3}, "max_turns: 5 -> 3"),
        ({"definition": {"name": "v1", "hash": "ff"}}, "definition: none -> v1 (ff)"),
        ({"contents": {"the dataset world (test)": "cc"}}, "the dataset world (test): 'aa' -> 'cc'"),
        (
            {"engines": {"corpus": {"the corpus of passages": "cc"}}},
            "engine corpus, the corpus of passages: 'bb' -> 'cc'",
        ),
        ({"engine": "dense"}, "engine: corpus -> dense"),
        ({"question_id": "other"}, "question 0: 'q0' -> 'other'"),
    ],
)
def test_another_task_is_refused_and_named(tmp_path: Path, changes: dict, named: str) -> None:
    first, second = folder(tmp_path / "a", "rag"), folder(tmp_path / "b", "oracle", **changes)
    with pytest.raises(DataError) as caught:
        join([first, second])
    assert named in str(caught.value)
    assert str(second) in str(caught.value)


def test_the_version_of_the_package_may_differ(tmp_path: Path) -> None:
    contents = {**SETTINGS["contents"], "the version of zerosearch-env": "0.3.0"}
    join([folder(tmp_path / "a", "rag"), folder(tmp_path / "b", "oracle", contents=contents)])


def test_folders_that_cannot_be_joined(tmp_path: Path) -> None:
    first = folder(tmp_path / "a", "rag")
    with pytest.raises(DataError, match="given twice"):
        join([first, tmp_path / "a" / "." / ".." / "a"])
    with pytest.raises(DataError, match="no folder given"):
        join([])
    shutil.rmtree(first)
    with pytest.raises(DataError, match="no such file"):
        join([first])


def test_cells_keep_their_place_in_a_joined_evaluation(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", "rag"), folder(tmp_path / "b", "rag")
    cells = join([first, second]).cells
    assert [replace(cell, agent="rag") for cell in cells[:2]] == [replace(cell, agent="rag") for cell in cells[2:]]
