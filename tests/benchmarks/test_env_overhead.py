"""The workload of the environment benchmark is what it says, and every way to drive it ends right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from zerosearch_benchmarks.measure import Timing
from zerosearch_benchmarks.speed import env_overhead as bench
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import SearchRequest, SearchResult


def test_workload() -> None:
    assert len(bench.THOUGHT.split()) == 49
    assert [len(action) for action in (bench.SEARCH, bench.INVALID, bench.ANSWER)] == pytest.approx([360] * 3, rel=0.15)
    assert sum(len(document.title) + len(document.text) for document in bench.DOCUMENTS) == pytest.approx(970, rel=0.1)


@pytest.mark.parametrize(
    ("actions", "kinds"),
    [(bench.E4, ["search"] * 3 + ["answer"]), (bench.E5, ["search", "invalid", "search", "search", "answer"])],
)
def test_episodes(actions: tuple[str, ...], kinds: list[str]) -> None:
    episode = Episode(bench.questions(1)[0], make_rules(), noise_level=0.5, seed=1)
    for action in actions:
        outcome = episode.advance(action)
        if isinstance(outcome, SearchRequest):
            episode.observe(SearchResult(bench.DOCUMENTS))
    assert [turn.step.action for turn in episode.turns] == kinds
    assert episode.turns[-1].step.reward == 1.0


@pytest.mark.parametrize("case", bench.our_cases(0.5), ids=lambda case: case.name)
def test_cases_count_their_steps(case: bench.Case) -> None:
    _, side_by_side, episode = case.name.split(", ")[:3]
    assert case.run() == int(side_by_side) * len({"E4": bench.E4, "E5": bench.E5}[episode])


def test_ratios_only_of_what_was_measured() -> None:
    timings = {name: Timing(name, us, us, us, 1, 1) for name, us in [("GEM, 1, E4", 18.0), ("core, 1, E4", 6.0)]}
    assert bench.ratios(timings) == {"single, GEM over core": pytest.approx(3.0)}


@pytest.mark.slow
def test_record(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    output = tmp_path / "record.json"
    assert bench.main(["--rounds", "1", "--seconds", "0", "--output", str(output)]) == 0
    assert set(json.loads(output.read_text())["timings"]) == {case.name for case in bench.our_cases(0.0)}
    assert re.search("gem-llm (is not installed|does not support Python)", capsys.readouterr().err)
