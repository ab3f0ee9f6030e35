from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zerosearch_env.game.episode import Episode
from zerosearch_env.game.reward_registry import REWARDS, EpisodeReward, get_reward
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult, StopReason

PAIRS = [name for name, reward in REWARDS.items() if not isinstance(reward, EpisodeReward)]
RANGES = {
    "search-r1-format": (0.0, 1.0),
    "search-r1-retrieval": (0.0, 1.0),
    "r1-searcher": (-2.0, 1.0),
    "r1-searcher-stage1": (-1.0, 2.0),
    "r1-searcher-stage2": (-1.0, 1.0),
    "research": (0.0, 1.0),
    "deepresearcher": (-1.0, 1.0),
}
DOCUMENTS = (Document("Rousseau", "Jean-Jacques Rousseau was born in Geneva."),)


@pytest.mark.parametrize(
    ("name", "prediction", "answers", "expected"),
    [
        ("zerosearch_em", "yesterday", ["yes"], 1.0),
        ("zerosearch_em", "in the city of New York", ["The New York"], 1.0),
        ("zerosearch_em", "York", ["New York"], 0.0),
        ("zerosearch_em", "Geneva, Switzerland", ["Bern", "geneva"], 1.0),
        ("zerosearch_em", "word " * 100 + "Geneva", ["Geneva"], 1.0),
        ("zerosearch_em", "anything", ["The"], 1.0),  # as in the reference: nothing is a part of everything
        ("research_f1", "yes it is", ["yes"], 0.0),
        ("research_f1", "yes", ["yes it is"], 0.0),
        ("research_f1", "Yes.", ["yes"], 1.0),
        ("research_f1", "noanswer at all", ["noanswer"], 0.0),
        ("research_f1", "Paris, France", ["no", "Paris"], 2 / 3),
        ("research_f1", "a b b", ["b b c"], 0.8),
        ("r1_searcher_em", "Jean-Jacques", ["jean jacques"], 1.0),
        ("r1_searcher_em", "U.S.", ["us"], 0.0),
        ("r1_searcher_em", "snake_case", ["snake case"], 1.0),
        ("r1_searcher_em", "O\u2019Brien", ["O'Brien"], 1.0),
        ("r1_searcher_em", "True", ["yes"], 1.0),
        ("r1_searcher_em", "no", ["False"], 1.0),
        ("r1_searcher_em", "true", ["yes"], 0.0),
        ("r1_searcher_f1", "Jean-Jacques Rousseau", ["Rousseau"], 0.5),
        ("r1_searcher_f1", "True story", ["True"], 0.0),
        ("r1_searcher_cover_em", "York and also New", ["New York"], 1.0),
        ("r1_searcher_cover_em", "Newyork", ["New York"], 0.0),
        ("r1_searcher_cover_em", "it is yes", ["True"], 1.0),
        ("deepresearcher_em", "U.S.", ["u s"], 1.0),
        ("deepresearcher_em", "The Geneva", ["Geneva"], 0.0),
        ("deepresearcher_f1", "the the Geneva", ["the Geneva"], 1.0),
        ("deepresearcher_f1", "The Geneva", ["Geneva"], 2 / 3),
        ("deepresearcher_f1", "a b c d", ["d e"], 1 / 3),
    ],
)
def test_known_scores(name: str, prediction: str, answers: list[str], expected: float) -> None:
    assert get_reward(name)(prediction, answers) == pytest.approx(expected)  # type: ignore[call-arg, arg-type]


texts = st.lists(
    st.sampled_from(["a", "The", "yes", "no", " ", ".", "-", "_", "\u2019", "York", "x1", "\u00e9"]), max_size=6
)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=40)
@given(prediction=texts.map("".join), golds=st.lists(texts.map("".join), min_size=1, max_size=3))
@example(prediction="a", golds=["a"])
def test_scores_are_shares_and_gold_answers_score_one(name: str, prediction: str, golds: list[str]) -> None:
    score: object = get_reward(name)
    assert callable(score)
    assert 0.0 <= score(prediction, golds) <= 1.0
    for nothing in (None, "", " \n"):
        assert score(nothing, golds) == 0.0
    for gold in golds:
        if "York" in gold or "x1" in gold:
            assert score(gold, golds) == 1.0


def play(protocol: str, turns: Sequence[str], *, answers: Sequence[str] = ("Geneva",), **rules: object) -> Episode:
    """An episode with these turns; every search finds `DOCUMENTS`."""
    question = Question("q", "Where was Rousseau born?", tuple(answers))
    episode = Episode(question, make_rules(protocol=protocol, **rules))  # type: ignore[arg-type]
    for text in turns:
        outcome = episode.advance(text)
        if isinstance(outcome, SearchRequest):
            episode.observe(SearchResult(DOCUMENTS))
    if not episode.done:
        episode.stop(StopReason.CONTEXT_LIMIT)
    return episode


def paid(protocol: str, reward: str, turns: Sequence[str], **options: object) -> float:
    episode = play(protocol, turns, reward=reward, **options)
    assert episode.scores is not None
    low, high = RANGES[reward]
    assert low <= episode.scores.reward <= high
    return episode.scores.reward


SEARCH = "<think>I look.</think>\n<search>Rousseau</search>"


@pytest.mark.parametrize(
    ("turns", "expected", "with_retrieval"),
    [
        ([SEARCH, "<think>Found.</think> <answer>Geneva</answer>"], 1.0, 1.0),
        (["<think>I know.</think><answer>Geneva</answer>"], 1.0, 1.0),
        (["<answer>Geneva</answer>"], 0.8, 0.8),
        ([SEARCH, "So: <answer>Geneva</answer>"], 0.8, 0.8),
        ([SEARCH, "<think>Found.</think><answer>Bern</answer>"], 0.2, 0.3),
        (["<think>I know.</think><answer>Bern</answer>"], 0.2, 0.2),
        (["<answer>Bern</answer>"], 0.1, 0.1),
        ([SEARCH], 0.0, 0.0),
        ([SEARCH, "I do not know."], 0.0, 0.0),
    ],
)
def test_search_r1(turns: list[str], expected: float, with_retrieval: float) -> None:
    assert paid("search-r1", "search-r1-format", turns) == pytest.approx(expected)
    assert paid("search-r1", "search-r1-retrieval", turns) == pytest.approx(with_retrieval)


def test_search_r1_does_not_see_the_last_notice_and_what_was_cut() -> None:
    last = "<think>Found.</think><answer>Bern</answer> and <search>more</search>"
    assert paid("search-r1", "search-r1-format", [SEARCH, last], max_turns=1) == pytest.approx(0.2)


R1_SEARCH = "I look.\n<|begin_of_query|>Rousseau<|end_of_query|>"


@pytest.mark.parametrize(
    ("turns", "base", "stage1", "stage2"),
    [
        ([R1_SEARCH, "Found.</think>\n<answer>Geneva</answer>"], 1.0, 2.0, 1.0),
        (["<think>" + R1_SEARCH, "Found.</think>\n<answer>Geneva</answer>"], 1.0, 2.0, 1.0),
        (["I know.</think><answer>Geneva</answer>"], 1.0, 1.5, 1.0),
        (["I know.</think><answer>Geneva Switzerland</answer>"], 2 / 3, 1.5, 2 / 3),
        (["I know.</think><answer>Bern</answer>"], 0.0, -0.5, 0.0),
        (["<answer>Geneva</answer>"], -1.0, 1.0, 0.0),
        (["I, the assistant.</think><answer>Geneva</answer>"], -1.0, 1.5, 1.0),
        (
            ["I know.</think><answer>Geneva one two three four five six seven eight nine ten</answer>"],
            2 / 12 - 2,
            1.5,
            2 / 12,
        ),
        (["\u6211</think><answer>Geneva</answer>"], -1.0, 1.5, 0.0),
        ([R1_SEARCH], -2.0, -0.5, -1.0),
        (["Nothing."], -2.0, -1.0, -1.0),
    ],
)
def test_r1_searcher(turns: list[str], base: float, stage1: float, stage2: float) -> None:
    assert paid("r1-searcher", "r1-searcher", turns) == pytest.approx(base)
    assert paid("r1-searcher", "r1-searcher-stage1", turns) == pytest.approx(stage1)
    assert paid("r1-searcher", "r1-searcher-stage2", turns) == pytest.approx(stage2)


BOXED = "<answer>It is \\boxed{%s}</answer>"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([SEARCH, "<think>Found.</think> " + BOXED % "Geneva"], 1.0),
        ([SEARCH, "<think>Found.</think> " + BOXED % "Geneva, Switzerland"], 2 / 3),
        ([SEARCH, "<think>Found.</think> " + BOXED % "Bern"], 0.1),
        (["I know.</think> " + BOXED % "Geneva"], 0.0),
        ([BOXED % "Geneva"], 0.0),
        ([SEARCH, "<think>Found.</think> <answer>Geneva</answer>"], 0.0),
        ([SEARCH], 0.0),
    ],
)
def test_research(turns: list[str], expected: float) -> None:
    assert paid("research", "research", turns) == pytest.approx(expected)


CALL = '<think>I look.</think>\n<tool_call>\n{"name": "web_search", "arguments": {"query": ["Rousseau"]}}\n</tool_call>'


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([CALL, "<think>Found.</think><answer>Geneva</answer>"], 1.0),
        ([CALL, "Found.</think><answer>the Geneva</answer>"], 2 / 3),
        ([CALL, "<think>Found.</think><answer>Bern</answer>"], 0.0),
        ([CALL, "<think>a</think><think>b</think></think><answer>Geneva</answer>"], -1.0),
        ([CALL, "<think>Found.</think> Geneva"], -1.0),
        ([CALL], -1.0),
    ],
)
def test_deepresearcher(turns: list[str], expected: float) -> None:
    assert paid("deepresearcher", "deepresearcher", turns) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANGES)
@settings(max_examples=25)
@given(
    st.lists(
        st.sampled_from(
            [SEARCH, R1_SEARCH, CALL, "x", "</think><answer>Geneva</answer>", "<think>y</think><answer>a b</answer>"]
        ),
        max_size=4,
    )
)
def test_rewards_stay_in_their_range_in_any_protocol(name: str, turns: list[str]) -> None:
    for protocol in ("search-r1", "r1-searcher", "research", "deepresearcher", "hermes"):
        question = Question("q", "Where?", ("Geneva",))
        episode = Episode(question, make_rules(protocol=protocol, reward=name))
        for text in turns:
            if episode.done:
                break
            if isinstance(outcome := episode.advance(text), tuple | SearchRequest):
                requests = outcome if isinstance(outcome, tuple) else (outcome,)
                results = [SearchResult(DOCUMENTS) for _ in requests]
                episode.observe(results[0] if isinstance(outcome, SearchRequest) else results)  # type: ignore[arg-type]
        step = episode.turns[-1].step if episode.done else episode.stop(StopReason.MAX_TURNS)
        assert RANGES[name][0] <= step.reward <= RANGES[name][1]
