"""Real questions, real texts, and what a policy says: the workload of `env_real_text`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zerosearch_env.datasets import load_dataset
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import Question

PASSAGES, QUESTIONS = "wikipedia_passages.jsonl", "hotpotqa_dev_qa.jsonl"
WORDS, DOCUMENTS = 100, 5
THOUGHT = " ".join(["Now find where both sides signed papers"] * 7)
SEARCHES = 3


@dataclass(frozen=True)
class Workload:
    """Real questions, what the policy says to each, and the texts that searches return."""

    questions: Sequence[Question]
    searches: Sequence[tuple[str, ...]]
    """Per question: the turns that search."""
    answers: Sequence[str]
    """Per question: the turn that answers."""
    texts: Sequence[tuple[str, str]]
    """Titles and texts of documents."""

    def results(self) -> Iterator[Sequence[tuple[str, str]]]:
        """The texts of one search after another, without end."""
        blocks = [self.texts[i : i + DOCUMENTS] for i in range(0, len(self.texts) - DOCUMENTS + 1, DOCUMENTS)]
        return itertools.cycle(blocks)


def load_workload(folder: Path, *, questions: int = 2048) -> Workload:
    """Read passages and questions, and cut the passages into documents of 100 words.

    Raises:
        ConfigError: a file is missing.
    """
    for name in (PASSAGES, QUESTIONS):
        if not (folder / name).is_file():
            raise ConfigError(f"there is no {folder / name}. Give the folder of the real texts with --data.")
    lines = (folder / PASSAGES).read_text("utf-8").splitlines()
    passages = [json.loads(line)["contents"].partition("\n") for line in lines]
    words = " ".join(text for _, _, text in passages).split()
    titles = itertools.cycle(title.strip('"') for title, _, _ in passages)
    texts = [(next(titles), " ".join(words[i : i + WORDS])) for i in range(0, len(words) - WORDS + 1, WORDS)]
    chosen = load_dataset(str(folder / QUESTIONS), limit=questions).questions
    return Workload(
        chosen,
        [tuple(_turn(f"<search>{q.text} {k}</search>") for k in range(SEARCHES)) for q in chosen],
        [_turn(f"<answer>{q.answers[0]}</answer>") for q in chosen],
        texts,
    )


def _turn(tag: str) -> str:
    return f"<think>{THOUGHT}</think>\n{tag}"
