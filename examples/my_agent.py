"""Plug in your own agent, and see what noise does to it.

    python examples/my_agent.py
    zerosearch eval --agent examples/my_agent.py:agent --noise 0 0.5 1 --questions 100     # on the command line

An agent is any function `(observation, info) -> text`. This one searches once and answers with the name in the sentence
most like the question. It never doubts what it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_env import load_dataset, make_engine, make_rules

NAME = re.compile(r"[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+)*|\d+")


def agent(observation: str, info: Mapping[str, Any]) -> str:
    """One turn: search for the question first, then answer from the documents."""
    if "documents" not in info:
        return f"<think>I have to look this up.</think><search>{info['question']}</search>"
    return f"<think>This is what the documents say.</think><answer>{read(info)}</answer>"


def stems(text: str) -> set[str]:
    """The first five letters of each word, so that "directed" and "director" are the same."""
    return {word[:5] for word in re.findall(r"\w+", text.lower())}


def read(info: Mapping[str, Any]) -> str:
    """The name, or for "When" the number, in the sentence that shares the most stems with the question."""
    question, dated = info["question"], info["question"].startswith("When")
    best, answer = 0, "unknown"
    for document in info["documents"]:
        for sentence in re.split(r"(?<=[.!?])\s+", document.text):
            shared = len(stems(question) & stems(f"{document.title} {sentence}"))
            names = [n for n in NAME.findall(sentence) if n not in question and n.isdigit() == dated]
            if names and shared > best:
                best, answer = shared, names[-1]
    return answer


def main(questions: int = 200) -> dict[float, float]:
    """Exact match by noise level."""
    data = load_dataset("world", "test")
    one_hop = [question for question in data.questions if question.metadata and question.metadata["hops"] == 1]
    engine = make_engine("corpus", dataset=data)
    result = evaluate(CallablePlayer(agent), one_hop[:questions], engine, make_rules(), noise_levels=[0, 0.5, 1])
    return {cell.noise_level: cell.summary().em.mean for cell in result.cells}


if __name__ == "__main__":
    for level, em in main().items():
        print(f"noise {level:.1f}   exact match {em:.2f}")
