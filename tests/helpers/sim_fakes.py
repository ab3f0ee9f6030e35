"""A backend without a model for the tests of the simulated engine, and requests for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zerosearch_benchmarks.speed.chat_server import documents
from zerosearch_env.llm import Completion, Prompt
from zerosearch_env.types import SearchRequest

Writer = Callable[[Prompt, int], Any]
"""(prompt, how many prompts came before) to a text, or a completion."""


class FakeBackend:
    """Writes what a function says, and keeps the prompts."""

    name = "fake"
    identity = "fake model"

    def __init__(self, write: Writer | None = None) -> None:
        self.write = write or (lambda prompt, _: documents(prompt.text))
        self.prompts: list[Prompt] = []
        self.batches: list[int] = []
        self.closed = 0

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        self.batches.append(len(prompts))
        results = []
        for prompt in prompts:
            written = self.write(prompt, len(self.prompts))
            self.prompts.append(prompt)
            results.append(written if isinstance(written, Completion) else Completion(written))
        return results

    def close(self) -> None:
        self.closed += 1


def ask(query: str = "capital of France", **changes: Any) -> SearchRequest:
    values: dict[str, Any] = {
        **{"question": "What is the capital of France?", "answers": ("Paris", "City of Light")},
        **{"noisy": False, "top_k": 3, "seed": 5},
    }
    return SearchRequest(query, **(values | changes))


def passage(text: str) -> str:
    """The text with enough words for a document."""
    return f"{text}, says a page about nothing else."


def numbered(*texts: str) -> str:
    return "\n".join(f"Doc {number}: {passage(text)}" for number, text in enumerate(texts, 1))
