"""Episodes of `gym.make("ZeroSearch-v0")` that the adapters to other frameworks must play text by text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import gymnasium

from zerosearch_env import plain
from zerosearch_env.types import Json

OPTIONS: dict[str, Any] = {"world": {"passages": 300, "questions": 60}, "noise_level": 0.5}
"""A small world in JSON values, as a framework's configuration has it."""


@dataclass
class Reference:
    """What the environment did: after each turn the observation, reward, end and info (as JSON values)."""

    seed: int
    prompt: str
    row: dict[str, Any]
    """The row whose episode is this one."""
    turns: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    done: list[bool] = field(default_factory=list)
    infos: list[dict[str, Json]] = field(default_factory=list)

    @property
    def flags(self) -> list[Json]:
        """Noise flags of each turn."""
        return [info["noise_flags"] for info in self.infos]


def turns_for(question: str, answer: str, script: str) -> list[str]:
    """Texts of an agent that searches twice and answers ("right"), blunders ("mixed") or never answers ("silent")."""
    search = f"<think>hm</think><search>{question}</search>"
    if script == "right":
        return [search, f"<search>{question} {answer}</search>", f"<answer>{answer}</answer>"]
    if script == "mixed":
        return ["no tag", "<search></search>", search, "<answer> </answer>", "<answer>something else</answer>"]
    return [f"<search>{question} {number}</search>" for number in range(20)]


SCRIPTS = ("right", "mixed", "silent")


@cache
def reference(seed: int, script: str, **changes: Any) -> Reference:
    """Play the environment to the end, with `OPTIONS` and changes to them."""
    env: Any = gymnasium.make("zerosearch_env:ZeroSearch-v0", **{**OPTIONS, **changes})
    prompt, _ = env.reset(seed=seed)
    base = env.unwrapped
    question = base.episode.question
    place = {"index": base.dataset.questions.index(question), "protocol": base.rules.protocol.name}
    row = {
        "question_id": question.id,
        "question": question.text,
        "prompt": [{"role": "user", "content": prompt}],
        "noise_level": base.episode.noise_level,
        "seed": base.episode.seed,
        "extra_info": place,
    }
    played = Reference(seed, prompt, row)
    for text in turns_for(question.text, question.answers[0], script):
        observation, reward, terminated, truncated, info = env.step(text)
        played.turns.append(text)
        played.observations.append(observation)
        played.rewards.append(reward)
        played.done.append(terminated or truncated)
        played.infos.append(plain(info))
        if terminated or truncated:
            break
    env.close()
    return played
