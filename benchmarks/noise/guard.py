"""Misses and false alarms of the answer detector on real text, and its speed.

The detector decides whether a text states a gold answer. It is compared with a slow and plain definition that shares no
code with it: without markup, case and accents, the text contains the words of an answer in a row. Texts are Wikipedia
passages and search snippets; answers are those of NQ and HotpotQA. All pairs of a text and a question are judged
in which the definition finds an answer, and many in which it does not: questions with an answer word in the text, and
random ones. Then the corpus engine makes noisy searches over the passages, and the definition looks for answers.
"""

from __future__ import annotations

import functools
import html
import json
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zerosearch_env.datasets import load_dataset
from zerosearch_env.engines.registry import make_engine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.answers import contains_answer, documents_contain_answer
from zerosearch_env.types import Document, Question, SearchRequest, full_text

from ..measure import Case, add_real_texts, make_parser, measure, print_timings, write_record

QUESTIONS = ("nq_open_dev.jsonl", "hotpotqa_dev_qa.jsonl")
PASSAGES = "wikipedia_passages.jsonl"
SNIPPETS = "real_search_trajectories.jsonl"
WORDS = 100
"""Words per document in the measurement of speed."""
DOCUMENTS = 5
"""Documents per search result."""
SHOWN = 20
"""Number of disagreements of each kind that the record quotes."""


def plain_words(text: str) -> list[str]:
    """The words of a text without markup, accents and case; every other character separates words."""
    text = html.unescape(re.sub(r"<[^<>]*>", " ", text))
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()
    return re.findall(r"[^\W_]+", bare)


def gold_words(answer: str) -> tuple[str, ...]:
    """The words of a gold answer without a leading article; empty for answers that have special rules.

    These are articles, single letters, and answers without letters and digits.
    """
    words = plain_words(answer)
    while words and words[0] in ("a", "an", "the"):
        words = words[1:]
    return () if len(words) == 1 and len(words[0]) == 1 and words[0].isalpha() else tuple(words)


def plainly_states(text: str, answers: Sequence[str]) -> bool:
    """The definition: the text contains the words of an answer in a row."""
    padded = f" {' '.join(plain_words(text))} "
    return any(f" {' '.join(words)} " in padded for words in map(gold_words, answers) if words)


@dataclass(frozen=True)
class Texts:
    """The real texts and answers of the comparison."""

    passages: tuple[str, ...]
    snippets: tuple[str, ...]
    questions: tuple[Question, ...]

    @functools.cached_property
    def answers(self) -> tuple[tuple[str, ...], ...]:
        """The gold answers of the questions, each set once."""
        return tuple(dict.fromkeys(question.answers for question in self.questions))


def load_texts(folder: Path) -> Texts:
    """Read the texts and questions.

    Raises:
        ConfigError: a file is missing.
    """
    for name in (*QUESTIONS, PASSAGES, SNIPPETS):
        if not (folder / name).is_file():
            raise ConfigError(f"there is no {folder / name}. Give the folder of the real texts with --data.")
    passages = tuple(json.loads(line)["contents"] for line in _lines(folder / PASSAGES))
    snippets = {
        text: None
        for line in _lines(folder / SNIPPETS)
        for s in json.loads(line)["searches"]
        for text in s["documents"]
    }
    questions = tuple(question for name in QUESTIONS for question in load_dataset(str(folder / name)).questions)
    return Texts(passages, tuple(snippets), questions)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def pairs(texts: Sequence[str], answers: Sequence[tuple[str, ...]], *, seed: int = 0) -> Iterator[tuple[str, int]]:
    """Pairs of a text and the index of a question: all that may hold the answer, and 20 random questions per text."""
    by_word = defaultdict(set)
    for index, golds in enumerate(answers):
        for words in map(gold_words, golds):
            if words:
                by_word[max(words, key=len)].add(index)
    rng = random.Random(seed)
    for text in texts:
        near = set[int]().union(*(by_word[word] for word in set(plain_words(text)) if word in by_word))
        yield from (
            (text, index) for index in sorted(near | set(rng.sample(range(len(answers)), min(20, len(answers)))))
        )


def compare(texts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> dict[str, object]:
    """Judge every pair by the detector and by the definition.

    Returns:
        Counts: pairs, stated (by the definition), missed, false alarms; the rates that have a target, and examples.
    """
    golds = [tuple(f" {' '.join(words)} " for words in map(gold_words, group) if words) for group in answers]
    total = stated = 0
    missed: list[dict[str, object]] = []
    alarms: list[dict[str, object]] = []
    last, padded = "", ""
    for text, index in pairs(texts, answers):
        if not golds[index]:
            continue
        if text != last:
            last, padded = text, f" {' '.join(plain_words(text))} "
        expected = any(gold in padded for gold in golds[index])
        found = contains_answer(text, answers[index])
        total += 1
        stated += expected
        if expected != found:
            (missed if expected else alarms).append({"answers": answers[index], "text": text[:300]})
    return {
        "pairs": total,
        "stated": stated,
        "missed": len(missed),
        "false_alarms": len(alarms),
        "missed_percent": round(100 * len(missed) / max(1, stated), 3),
        "false_alarm_percent": round(100 * len(alarms) / max(1, total - stated), 3),
        "examples": {"missed": missed[:SHOWN], "false_alarms": alarms[:SHOWN]},
    }


def noisy_searches(corpus: Path, questions: Sequence[Question], count: int) -> dict[str, int]:
    """Make noisy searches over the passages, and count those that show an answer by the definition."""
    engine = make_engine(f"corpus:{corpus}")
    chosen = random.Random(1).sample(questions, count)
    requests = [SearchRequest(q.text, q.text, q.answers, True, 5, seed) for seed, q in enumerate(chosen)]
    results = engine.search(requests)
    shown = sum(
        any(plainly_states(full_text(document), request.answers) for document in result.documents)
        for request, result in zip(requests, results, strict=True)
    )
    return {"searches": count, "failed": sum(result.failure is not None for result in results), "with_answer": shown}


def speed_cases(texts: Texts, *, count: int = 2000) -> list[Case]:
    """Documents of 100 words of the passages: alone and five at a time, as the environment reads a search result.

    The answer does not occur in them; the slowest kind holds one of its words.
    """
    words = " ".join(texts.passages).split(" ")
    documents = [" ".join(words[i : i + WORDS]) for i in range(0, len(words) - WORDS, WORDS)][:count]
    rng = random.Random(2)
    random_pairs = [(document, rng.choice(texts.answers)) for document in documents]
    absent = [pair for pair in random_pairs if not contains_answer(*pair)]
    near = [
        (text, texts.answers[i])
        for text, i in pairs(documents, texts.answers)
        if not contains_answer(text, texts.answers[i])
    ]
    rng.shuffle(near)
    accented = [(text, answers) for text, answers in near if not text.isascii()][:count]
    together = [
        ([Document("", text) for text, _ in absent[i : i + DOCUMENTS]], absent[i][1])
        for i in range(0, len(absent), DOCUMENTS)
    ]
    work = {
        "answer absent": absent,
        "absent, other characters than ASCII": [pair for pair in absent if not pair[0].isascii()],
        "a word of the answer present, other characters than ASCII": accented,
    }
    cases = [Case(name, _run(chosen)) for name, chosen in work.items() if chosen]
    return [*cases, Case("answer absent, five documents together", _run_together(together))]


def _run_together(work: Sequence[tuple[Sequence[Document], tuple[str, ...]]]) -> Callable[[], int]:
    def run() -> int:
        for documents, answers in work:
            documents_contain_answer(documents, answers)
        return DOCUMENTS * len(work)

    return run


def _run(work: Sequence[tuple[str, tuple[str, ...]]]) -> Callable[[], int]:
    def run() -> int:
        for text, answers in work:
            contains_answer(text, answers)
        return len(work)

    return run


def main(argv: list[str] | None = None) -> int:
    """Compare, measure, print, and write a JSON record."""
    parser = make_parser("guard", __doc__, rounds=7, seconds=0.25)
    add_real_texts(parser, (*QUESTIONS, PASSAGES, SNIPPETS))
    parser.add_argument("--searches", type=int, default=3000, help="noisy searches over the passages (3000)")
    arguments = parser.parse_args(argv)
    texts = load_texts(arguments.data)
    results: dict[str, object] = {}
    for name, group in ("passages", texts.passages), ("snippets", texts.snippets):
        results[name] = row = compare(group, texts.answers)
        print(
            f"{name}: {row['pairs']:,} pairs, answer stated in {row['stated']:,}: {row['missed_percent']} % missed, "
            f"{row['false_alarm_percent']} % false alarms"
        )
    results["noisy_searches"] = searches = noisy_searches(
        arguments.data / PASSAGES, texts.questions, arguments.searches
    )
    print(f"noisy searches: {searches['with_answer']} of {searches['searches']:,} show an answer")
    timings = measure(speed_cases(texts), rounds=arguments.rounds, seconds=arguments.seconds)
    print_timings(timings, "document")
    write_record(arguments.output, [], **results, timings=timings)
    return 0
