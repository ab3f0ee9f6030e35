"""CPU time of a step of the environment with real text, next to gem-llm and skyrl-gym in the same run.

Every search returns five new documents of 100 words of Wikipedia. The questions, with their answers, are those of
HotpotQA. An episode is three searches with queries of their own and an answer, which is right; making the documents,
the reset and the scores are inside the measured time. The peers get the same documents from a search that costs
nothing, in the form that their own clients parse; the rest of them is as shipped. They neither look for gold answers in
the documents nor keep tags in documents from acting.

The rows of the peers need the extras `gem` and `skyrl` (`pip install -e ".[gem,skyrl]"`, best in a separate virtual
environment); without them ours are measured alone.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from zerosearch_env.engines import BatchedEngine
from zerosearch_env.types import Dataset, Document, SearchRequest, SearchResult

from ..measure import Case, Timing, add_real_texts, make_parser, measure, print_timings, write_record
from .env_peers import gem_cases, skyrl_cases
from .real_text import SEARCHES, Workload, load_workload

ENVIRONMENTS = 256


class NewDocuments(BatchedEngine):
    """Makes new documents for every search, as engines do that ask a model or a server."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self._results = workload.results()

    def search(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """One result per request."""
        return [
            SearchResult(tuple([Document(title, text, "", 1.0) for title, text in next(self._results)]), engine="new")
            for _ in requests
        ]


def single_environment(workload: Workload, *, read: bool) -> Callable[[], int]:
    """One environment of `gymnasium.make`: an episode with its reset per call."""
    data = Dataset("hotpotqa", "dev", workload.questions)
    env = gymnasium.make("ZeroSearch-v0", dataset=data, search_engine=NewDocuments(workload), noise_level=0.0)
    env.reset(seed=0)
    index = {question.id: i for i, question in enumerate(workload.questions)}

    def run() -> int:
        _, info = env.reset()
        number = index[info["question_id"]]
        for action in workload.searches[number]:
            info = env.step(action)[4]
            if read:
                _ = info["answer_in_documents"]
        _, reward, terminated, _, _ = env.step(workload.answers[number])
        if not terminated or reward != 1.0:
            raise AssertionError(f"the last turn must answer correctly, got reward {reward}")
        return SEARCHES + 1

    return run


def vector_environment(workload: Workload, *, read: bool, count: int = ENVIRONMENTS) -> Callable[[], int]:
    """The native vector environment, which resets in the same step: an episode in every row per call."""
    data = Dataset("hotpotqa", "dev", workload.questions)
    env = gymnasium.make_vec(
        "ZeroSearch-v0",
        num_envs=count,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        dataset=data,
        search_engine=NewDocuments(workload),
        noise_level=0.0,
    )
    index = {question.id: i for i, question in enumerate(workload.questions)}
    ids: Any = env.reset(seed=0)[1]["question_id"]

    def run() -> int:
        nonlocal ids
        numbers = [index[identity] for identity in ids]
        for k in range(SEARCHES):
            info = env.step([workload.searches[number][k] for number in numbers])[4]
            if read:
                _ = info["answer_in_documents"]
        _, rewards, terminated, _, info = env.step([workload.answers[number] for number in numbers])
        if not terminated.all() or not (rewards == 1.0).all():
            raise AssertionError("the last turn must answer correctly in every environment")
        ids = info["question_id"]
        return (SEARCHES + 1) * count

    return run


def our_cases(workload: Workload) -> list[Case]:
    """Our environment, with and without reading `info["answer_in_documents"]` after each search."""
    return [
        Case("gym.make", single_environment(workload, read=False)),
        Case("gym.make, answer_in_documents read", single_environment(workload, read=True)),
        Case("vector, 256", vector_environment(workload, read=False)),
        Case("vector, 256, answer_in_documents read", vector_environment(workload, read=True)),
    ]


GEM, GEM_VECTOR, SKYRL = "GEM", "GEM vector, 256", "skyrl-gym, 256"
RATIOS = (
    ("gym.make", GEM),
    ("gym.make, answer_in_documents read", GEM),
    ("vector, 256", GEM_VECTOR),
    ("vector, 256, answer_in_documents read", GEM_VECTOR),
    ("vector, 256", SKYRL),
    ("vector, 256, answer_in_documents read", SKYRL),
)


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """Our time over the peer's (`Timing.over`), for every pair that was measured; below 1 we are faster."""
    return {
        f"{ours} / {peer}": round(timings[ours].over(timings[peer]), 3)
        for ours, peer in RATIOS
        if ours in timings and peer in timings
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("env-real-text", __doc__, rounds=15, seconds=0.25)
    add_real_texts(parser)
    arguments = parser.parse_args(argv)
    workload = load_workload(arguments.data)
    cases = our_cases(workload)
    for name, peer_cases in ("gem", gem_cases), ("skyrl_gym", skyrl_cases):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed, so there is no comparison; see this file's docstring.", file=sys.stderr)
        else:
            cases += peer_cases(workload)
    timings = measure(cases, rounds=arguments.rounds, seconds=arguments.seconds)
    print_timings(timings, "step")
    for name, ratio in ratios(timings).items():
        print(f"{name}: {ratio:.2f}")
    results = list(itertools.islice(workload.results(), 1000))
    non_ascii = sum(not "".join(map("".join, result)).isascii() for result in results)
    libraries = ["gymnasium", "numpy", "gem-llm", "skyrl-gym", "datasets", "msgspec"]
    write_record(
        arguments.output,
        libraries,
        ratios=ratios(timings),
        results_with_other_characters_than_ascii_percent=non_ascii / 10,
        timings=timings,
    )
    return 0
