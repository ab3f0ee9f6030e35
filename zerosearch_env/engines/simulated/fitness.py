"""Is a language model fit to play the search engine? The first samples of four searches, and a verdict in one line.

simulated:hf: 1 of 4 sets usable, ... 2 chat phrases: not fit. Tune it ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from ...types import Question, SearchRequest
from .reject import Rejection
from .sets import DocumentSet

SEARCHES = 4
"""Number of searches: the first half useful, the second half noisy."""

KNOWN = (
    Question("fitness-1", "What is the capital of France?", ("Paris",)),
    Question("fitness-2", "Who wrote the play Romeo and Juliet?", ("William Shakespeare", "Shakespeare")),
    Question("fitness-3", "In which year did the Berlin Wall fall?", ("1989",)),
    Question("fitness-4", "Which planet is known as the Red Planet?", ("Mars",)),
)
"""Questions for when a dataset has none."""

_LEAST_USABLE, _LEAST_ANSWERED, _MOST_LEAKS = 3, 1, 1
_NAMES: dict[Rejection, str] = {
    "refusal": "refusals",
    "chat": "chat phrases",
    "looping": "repetitions",
    "fragment": "fragments",
    "echo": "echoes of the prompt",
}


def fitness_requests(questions: Iterable[Question], top_k: int) -> list[SearchRequest]:
    """Four searches, each for a question as it is: two useful, two noisy.

    Args:
        questions: the dataset's; the first ones that have answers are used. Without any, `KNOWN`.
        top_k: documents per search.
    """
    chosen = list(islice((question for question in questions if question.answers), SEARCHES)) or KNOWN
    return [
        SearchRequest(
            (question := chosen[number % len(chosen)]).text,
            question.text,
            question.answers,
            noisy=number >= SEARCHES // 2,
            top_k=top_k,
            seed=number,
            steps=question.steps,
        )
        for number in range(SEARCHES)
    ]


@dataclass(frozen=True, slots=True)
class Fitness:
    """The results of the four searches, each made of one sample."""

    sets: tuple[DocumentSet, ...]

    @property
    def usable(self) -> int:
        """Sets with as many documents as requested, before any answer was removed from noisy ones."""
        return sum(made.failure is None or made.leaked for made in self.sets)

    @property
    def answered(self) -> int:
        """Useful sets that contain the answer."""
        return sum(not made.noisy and made.failure is None and not made.missed for made in self.sets)

    @property
    def leaks(self) -> int:
        """Noisy sets that contain an answer. The engine never returns one; it samples again, or removes the answer."""
        return sum(made.leaked for made in self.sets)

    @property
    def fit(self) -> bool:
        """Whether at least three sets are usable, at least one useful set has the answer, and at most one leaks."""
        return self.usable >= _LEAST_USABLE and self.answered >= _LEAST_ANSWERED and self.leaks <= _MOST_LEAKS

    def line(self, name: str, *, prefill: str = "") -> str:
        """The verdict in one line, with the ways out if the model is not fit.

        Args:
            name: the engine.
            prefill: the prefill that was used.
        """
        useful = sum(not made.noisy for made in self.sets)
        rejected = Counter(reason for made in self.sets for reason in made.rejected)
        counts = [
            f"{self.usable} of {len(self.sets)} sets usable",
            f"{self.answered} of {useful} useful ones with the answer",
            f"{self.leaks} of {len(self.sets) - useful} noisy ones with a leak",
            *(f"{rejected[reason]} {text}" for reason, text in _NAMES.items() if rejected[reason]),
        ]
        verdict = "fit" if self.fit else f"not fit. {ways_out(prefill)}"
        return f"{name}: {', '.join(counts)}: {verdict}"

    def failures(self) -> Sequence[str]:
        """Why sets have failed."""
        return [made.failure for made in self.sets if made.failure is not None]


def ways_out(prefill: str) -> str:
    """What helps a model that is not fit, as a sentence."""
    begin = "" if prefill else "begin its replies (the option prefill, for example 'Doc 1:'), "
    return (
        f"Tune it (zerosearch simulator train), {begin}or ask it with the prompt that it was tuned with (the options "
        "prompt, noisy_prompt and system)"
    )
