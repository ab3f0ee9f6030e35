"""CPU time of the environment per step when the search is free, compared with gem-llm in the same run.

Episodes: `E4` is three searches and an answer; `E5` is a search, an invalid turn, two searches and an answer. Every
action is a thought of 49 words and a tag, about 360 characters; every search returns the same five documents, about
970 characters (in the case `new documents` they differ from search to search); three gold answers, and the answer
given is right after normalisation. Reset, parsing, noise draws, the test for gold answers in the documents and
scoring are all inside the measured time. GEM has no E5: an action without a tag raises UnboundLocalError in its
version 0.1.0.

The GEM rows need the extra `gem` (`pip install -e ".[gem]"`, best in a separate virtual environment); without it our
rows are measured alone.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from zerosearch_env.engines import ConstantEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Dataset, Document, Question, SearchRequest, SearchResult, Step

from ..measure import Case, Timing, make_parser, measure, print_timings, write_record
from .gem_peer import gem_cases, play_each, play_vector

ENVIRONMENTS = 256
THOUGHT = " ".join(["Now find where both sides signed papers"] * 7)
ANSWERS = ("Geneva", "Geneva, Switzerland", "city of Geneva")
DIFFERENT = 4096


def _documents(copy: int) -> tuple[Document, ...]:
    text = (
        "The treaty was signed in the town hall after long talks between the two sides, who met there every spring "
        "for a week, and the papers of the day describe the rooms as cold."
    )
    return tuple(
        Document(f"Passage {copy} number {number}", text, f"p{copy}-{number}", 1.0 / number) for number in range(1, 6)
    )


DOCUMENTS = _documents(0)


def _action(tag: str) -> str:
    return f"<think>{THOUGHT}</think>\n{tag}"


SEARCH = _action("<search>where was the treaty between the two sides signed</search>")
INVALID = _action("I think I know it, but I will not say it with a tag around.")
ANSWER = _action("<answer>The Geneva</answer>")
E4 = (SEARCH, SEARCH, SEARCH, ANSWER)
E5 = (SEARCH, INVALID, SEARCH, SEARCH, ANSWER)


def questions(count: int = 1024) -> list[Question]:
    """Make questions that differ in text and id and share their answers."""
    return [Question(f"q{i}", f"Where was treaty number {i} signed?", ANSWERS, "bench", "train") for i in range(count)]


def core_episodes(
    actions: Sequence[str], side_by_side: int, noise_level: float, *, results: int = 1
) -> Callable[[], int]:
    """Make a function that runs only the sans-IO core: `Episode` objects stepped in turn, each played once per call.

    Args:
        actions: one episode.
        side_by_side: number of episodes that take turns.
        noise_level: noise level of every episode.
        results: number of different search results; with many, nothing about one can be cached.
    """
    rules = make_rules()
    pool = questions()
    cycle = itertools.cycle([SearchResult(_documents(copy), engine="constant") for copy in range(results)])

    def run() -> int:
        episodes = [Episode(pool[i], rules, noise_level=noise_level, seed=i) for i in range(side_by_side)]
        for action in actions:
            for episode in episodes:
                outcome = episode.advance(action)
                if isinstance(outcome, SearchRequest):
                    outcome = episode.observe(next(cycle))
        if not isinstance(outcome, Step) or outcome.reward != 1.0:
            raise AssertionError(f"the last action must answer correctly, got {outcome}")
        return len(actions) * side_by_side

    return run


def _options(noise_level: float) -> dict[str, Any]:
    data = Dataset("bench", "train", questions())
    return {"dataset": data, "search_engine": ConstantEngine(DOCUMENTS), "noise_level": noise_level}


def single_environment(actions: Sequence[str], noise_level: float, *, made: bool) -> Callable[[], int]:
    """Drive `ZeroSearchEnv` directly, or as wrapped by `gym.make` (`made`): one episode with its reset per call."""
    from zerosearch_env.envs.single import ZeroSearchEnv

    options = _options(noise_level)
    env = gymnasium.make("ZeroSearch-v0", **options) if made else ZeroSearchEnv(**options)
    env.reset(seed=0)
    return play_each([env], actions)


def vector_environment(actions: Sequence[str], noise_level: float) -> Callable[[], int]:
    """Drive the native vector environment of 256, which resets in the same step, like GEM's."""
    env = gymnasium.make_vec(
        "ZeroSearch-v0",
        num_envs=ENVIRONMENTS,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
        **_options(noise_level),
    )
    env.reset(seed=0)
    return play_vector(env, actions, ENVIRONMENTS)


def our_cases(noise_level: float) -> list[Case]:
    """Return one case for every way to drive our environment."""
    return [
        Case("core, 1, E4", core_episodes(E4, 1, noise_level)),
        Case("core, 1, E5", core_episodes(E5, 1, noise_level)),
        Case("core, 256, E4", core_episodes(E4, ENVIRONMENTS, noise_level)),
        Case("core, 256, E5", core_episodes(E5, ENVIRONMENTS, noise_level)),
        Case("core, 256, E4, new documents", core_episodes(E4, ENVIRONMENTS, noise_level, results=DIFFERENT)),
        Case("ZeroSearchEnv, 1, E4", single_environment(E4, noise_level, made=False)),
        Case("gym.make, 1, E4", single_environment(E4, noise_level, made=True)),
        Case("vector, 256, E4", vector_environment(E4, noise_level)),
        Case("vector, 256, E5", vector_environment(E5, noise_level)),
    ]


RATIOS = {
    "single, GEM over core": ("GEM, 1, E4", "core, 1, E4"),
    "single, GEM over ZeroSearchEnv": ("GEM, 1, E4", "ZeroSearchEnv, 1, E4"),
    "single, GEM over gym.make": ("GEM, 1, E4", "gym.make, 1, E4"),
    "256, GEM loop over core": ("GEM loop, 256, E4", "core, 256, E4"),
    "256, GEM vector over vector": ("GEM vector, 256, E4", "vector, 256, E4"),
    "single, GEM with its rows in a list over ZeroSearchEnv": ("GEM, rows in a list, 1, E4", "ZeroSearchEnv, 1, E4"),
}


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """GEM's median over ours, for every pair that was measured."""
    return {
        name: timings[peer].median / timings[ours].median
        for name, (peer, ours) in RATIOS.items()
        if peer in timings and ours in timings
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write a JSON record."""
    parser = make_parser("env-overhead", __doc__, rounds=7, seconds=0.25)
    parser.add_argument("--noise-level", type=float, default=0.0, help="noise level of our environment (0)")
    arguments = parser.parse_args(argv)
    cases = our_cases(arguments.noise_level)
    if importlib.util.find_spec("gem") is not None:
        cases += gem_cases(questions(), E4, DOCUMENTS, ENVIRONMENTS)
    else:
        reason = "is not installed" if sys.version_info < (3, 12, 1) else "does not support Python 3.12.1 and later"
        print(f"gem-llm {reason}, so there is no comparison; see this file's docstring.", file=sys.stderr)
    timings = measure(cases, rounds=arguments.rounds, seconds=arguments.seconds)
    print_timings(timings, "step")
    results = {"ratios": ratios(timings), "noise_level": arguments.noise_level, "timings": timings}
    for name, ratio in ratios(timings).items():
        print(f"{name}: {ratio:.1f} times")
    write_record(arguments.output, ["gymnasium", "numpy", "gem-llm", "datasets", "msgspec"], **results)
    return 0
