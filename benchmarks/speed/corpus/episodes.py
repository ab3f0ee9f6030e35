"""Function agents over a large corpus of real text: episodes per CPU second, and what a kind of noise adds to a search.

The corpus is that of `scale.py`: 100,000 passages of 100 words, recombined from sentences of real Wikipedia
passages. Nothing is searched twice, so no ranking is cached.

Episodes: `zerosearch eval`'s own path, with results and transcripts on disk. The agent thinks 50 words, searches three
times with queries of its own, and answers. The questions are those of HotpotQA, and every second search is noisy. For
comparison, the same searches without episodes.

Kinds of noise: batches of 32 searches, all of them useful or all noisy of one kind, in alternating rounds. The
questions are made from the passages, so useful documents often state the answer, which is then replaced, cut or
garbled.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zerosearch_agents.evaluation.evaluate import evaluate
from zerosearch_agents.evaluation.items import Item
from zerosearch_agents.evaluation.store import Store
from zerosearch_agents.players.third_party import CallablePlayer
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.files.passages import iter_corpus
from zerosearch_env.engines import BatchedEngine, CorpusEngine, SearchEngine
from zerosearch_env.engines.corpus.build import build_folder
from zerosearch_env.engines.corpus.passages import PassageIndex, open_index
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise_kinds import KINDS, read_noise_kinds
from zerosearch_env.game.rules import make_rules
from zerosearch_env.randomness import mix
from zerosearch_env.types import Question, SearchRequest, SearchResult

from ...measure import Case, Timing, add_real_texts, make_parser, measure, print_timings, write_record
from ..real_text import PASSAGES, QUESTIONS, SEARCHES, Workload, load_workload
from .scale import recombined

ONE_HOP = "wikiq_one_hop_train.jsonl"
NOISE = 0.5
BLOCK = 100
"""Episodes per evaluation."""
BATCH, TOP_K = 32, 5
EPISODES, ALONE = "episodes", "their searches alone"
USEFUL, DISTRACTOR = "useful", "distractor"
RULES = make_rules()


def build(data: Path, folder: Path, passages: int) -> Path:
    """Write the corpus and build its index; returns the index's folder."""
    file, index = folder / "corpus.jsonl", folder / "index"
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in recombined(data, passages))
    build_folder(iter_corpus(file), index)
    return index


def agent_of(workload: Workload) -> Callable[[str, Mapping[str, Any]], str]:
    """An agent that searches three times and answers rightly, whatever the documents say."""
    turns = {
        question.text: (*searches, answer)
        for question, searches, answer in zip(workload.questions, workload.searches, workload.answers, strict=True)
    }
    return lambda observation, info: turns[info["question"]][info["turn"]]


def blocks(questions: Sequence[Question]) -> itertools.cycle[list[Item]]:
    """The questions in blocks, again and again; a question is asked once per round of all."""
    items = [Item(number, question) for number, question in enumerate(questions)]
    return itertools.cycle([items[start : start + BLOCK] for start in range(0, len(items), BLOCK)])


def episodes_case(workload: Workload, engine: SearchEngine, folder: Path) -> Case:
    """Evaluate a block of questions and store everything."""
    player, left, number = CallablePlayer(agent_of(workload)), blocks(workload.questions), itertools.count()

    def run() -> int:
        items = next(left)
        store = Store(folder / str(next(number)), {})
        (cell,) = evaluate(player, items, engine, RULES, (NOISE,), store=store).cells
        if not cell.complete or cell.summary().em.mean != 1.0 or cell.summary().searches.mean != SEARCHES:
            raise AssertionError(f"every episode must search {SEARCHES} times and end with the right answer")
        return len(items)

    return Case(EPISODES, run)


class Recorder(BatchedEngine):
    """Finds nothing, and keeps the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[SearchRequest] = []

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """One empty result per request."""
        self.requests += requests
        return [SearchResult(()) for _ in requests]


def searches_case(workload: Workload, engine: SearchEngine) -> Case:
    """The searches of an episode, one call each; the requests are made beforehand."""
    recorder = Recorder()
    evaluate(CallablePlayer(agent_of(workload)), workload.questions, recorder, RULES, (NOISE,))
    left = itertools.cycle(recorder.requests)

    def run() -> int:
        for request in itertools.islice(left, SEARCHES):
            engine.search([request])
        return 1

    return Case(ALONE, run)


def kind_cases(index: PassageIndex, questions: Sequence[Question]) -> list[Case]:
    """A batch of searches per call: useful ones, and noisy ones of each kind."""
    plain = [
        SearchRequest(q.text, q.text, q.answers, noisy=False, top_k=TOP_K, seed=mix(n), episode_seed=mix(n, 1))
        for n, q in enumerate(questions)
    ]

    def case(name: str, kind: str, noisy: bool) -> Case:
        engine = add_noise_kinds(CorpusEngine(index, paragraphs=False), read_noise_kinds(kind), questions)
        requests = [replace(request, noisy=noisy, noise_kind=kind) for request in plain]
        batches = itertools.cycle([requests[at : at + BATCH] for at in range(0, len(requests) - BATCH + 1, BATCH)])

        def run() -> int:
            return len(engine.search(next(batches)))

        return Case(name, run)

    return [case(USEFUL, DISTRACTOR, False), *(case(kind, kind, True) for kind in KINDS)]


def print_kinds(timings: Mapping[str, Timing]) -> dict[str, dict[str, float]]:
    """Print the time of each kind over that of a useful and of a distractor search, and return these ratios."""
    ratios = {
        kind: {name: round(timings[kind].over(timings[name]), 3) for name in (USEFUL, DISTRACTOR)} for kind in KINDS
    }
    print(f"\n{'kind':<16}{'CPU us':>10}{'/ useful':>12}{'/ distractor':>14}")
    for kind, over in ratios.items():
        print(f"{kind:<16}{timings[kind].median:>10.0f}{over[USEFUL]:>12.2f}{over[DISTRACTOR]:>14.2f}")
    return ratios


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("corpus-episodes", __doc__, rounds=7, seconds=0.5)
    add_real_texts(parser, (PASSAGES, QUESTIONS, ONE_HOP))
    parser.add_argument("--passages", type=int, default=100_000, help="passages of the corpus (100000)")
    arguments = parser.parse_args(argv)
    if not (arguments.data / ONE_HOP).is_file():
        raise ConfigError(f"there is no {arguments.data / ONE_HOP}. Give the folder of the real texts with --data.")
    options = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    workload = load_workload(arguments.data, questions=10_000)
    one_hop = load_dataset(str(arguments.data / ONE_HOP)).questions
    with tempfile.TemporaryDirectory() as work:
        folder = build(arguments.data, Path(work), arguments.passages)
        engines = [CorpusEngine(open_index(folder), paragraphs=False) for _ in range(2)]
        cases = [episodes_case(workload, engines[0], Path(work)), searches_case(workload, engines[1])]
        episodes = measure(cases, **options)
        stored = open_index(folder)
        index = PassageIndex(stored.passages, cached_queries=0, index=stored.bm25)
        kinds = measure(kind_cases(index, one_hop), **options)
    print(f"{arguments.passages:,} passages; {SEARCHES} searches per episode, noise {NOISE:g}")
    print_timings(episodes, "episode")
    ratios = print_kinds(kinds)
    write_record(
        arguments.output,
        ["numpy"],
        text="sentences of real Wikipedia passages, recombined; real questions",
        passages=arguments.passages,
        searches=SEARCHES,
        noise=NOISE,
        batch=BATCH,
        episodes_per_cpu_s=round(episodes[EPISODES].per_second, 1),
        kinds=ratios,
        timings=episodes | kinds,
    )
    return 0
