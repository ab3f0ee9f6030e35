"""An evaluation holds the episodes that are being played, and no finished one."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_dataset

from zerosearch_agents.evaluation import evaluate as evaluate_module
from zerosearch_agents.evaluation.evaluate import PlannedEpisodes, evaluate
from zerosearch_agents.players.base import AgentOptions, blocks
from zerosearch_agents.players.builtin.scripted import RandomPlayer
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_env.engines import CorpusEngine
from zerosearch_env.errors import EpisodeError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules

RULES = make_rules(max_turns=4, top_k=2)
DATA = tiny_dataset()
QUESTIONS = DATA.questions


@pytest.fixture
def engine() -> CorpusEngine:
    return CorpusEngine(DATA.passages)


def search_twice(observation: str, info: Any) -> str:
    return f"<search>{info['question']}</search>" if info["turn"] < 2 else "<answer>k</answer>"


@pytest.mark.parametrize("player", [CallablePlayer(search_twice, options=AgentOptions(concurrency=3)), RandomPlayer()])
def test_finished_episodes_are_not_held(engine: CorpusEngine, monkeypatch: pytest.MonkeyPatch, player: Any) -> None:
    monkeypatch.setattr(blocks, "__defaults__", (3,))
    whole = evaluate(player, QUESTIONS, engine, RULES, (0.5,)).cells[0].episodes
    held: list[int] = []

    class Watched(PlannedEpisodes):
        def release(self, position: int) -> Episode | None:
            held.append(len(self._held))
            return super().release(position)

    monkeypatch.setattr(evaluate_module, "PlannedEpisodes", Watched)
    assert evaluate(player, QUESTIONS, engine, RULES, (0.5,)).cells[0].episodes == whole
    assert len(held) == len(QUESTIONS)
    assert max(held) <= 3


def test_episodes_are_made_when_they_are_taken() -> None:
    made: list[int] = []

    def make(position: int) -> Episode:
        made.append(position)
        return Episode(QUESTIONS[position], RULES)

    episodes = PlannedEpisodes(8, make)
    assert len(episodes) == 8
    assert episodes[2] is episodes[2] is episodes[-6]
    assert [episode.question.id for episode in episodes[1:4]] == ["q1", "q2", "q3"]
    assert made == [2, 1, 3]
    episodes[3].advance("<answer> a </answer>")
    assert (episodes.done, episodes.unreleased) == ([3], list(range(8)))
    assert episodes.release(3).question.id == "q3"
    assert episodes.release(3) is None
    assert (episodes.done, episodes.unreleased) == ([], [0, 1, 2, 4, 5, 6, 7])
    with pytest.raises(EpisodeError, match="episode 3 is over"):
        episodes[3]
    with pytest.raises(IndexError):
        episodes[8]


def test_blocks_keep_the_positions() -> None:
    done: list[int] = []
    for block, on_done in blocks(range(7), done.append, 3):  # type: ignore[arg-type]
        for position in reversed(range(len(block))):
            on_done(position)
    assert done == [2, 1, 0, 5, 4, 3, 6]
    assert [on_done for _, on_done in blocks([], None)] == []
    assert [on_done for _, on_done in blocks(range(2), None)] == [None]  # type: ignore[arg-type]
