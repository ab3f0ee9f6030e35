"""Episodes played by agents that own their loop."""

from __future__ import annotations

from typing import Any

from zerosearch_agents.players.base import AgentOptions
from zerosearch_agents.players.tool_agents import ToolAgentPlayer
from zerosearch_env.engines import ConstantEngine, SearchEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question


def episodes(count: int, level: float = 0.0, **rules: Any) -> list[Episode]:
    played = make_rules(**{"max_turns": 3, "top_k": 2, **rules})
    return [
        Episode(Question(f"row-{i}", f"What is {i}?", (str(i),)), played, noise_level=level, seed=i)
        for i in range(count)
    ]


def play(
    agent: Any, count: int = 1, engine: SearchEngine | None = None, rules: dict[str, Any] | None = None, **options: Any
) -> list[Episode]:
    played = episodes(count, **(rules or {}))
    player = ToolAgentPlayer(agent, options=AgentOptions(**{"backoff_s": 0.0, **options}))
    try:
        player.play(played, engine or ConstantEngine())
    finally:
        player.close()
    return played


def play_one(agent: Any, **more: Any) -> Episode:
    return play(agent, **more)[0]


def number(question: str) -> str:
    return question[8:-1]


def actions(episode: Episode) -> list[str]:
    return [turn.step.action for turn in episode.turns]
