from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_agents.players.builtin.answers import abstains, conclusion, cut_answer, majority
from zerosearch_env.game.rewards import answer_key, exact_match


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" Paris", "Paris"),
        ("Paris\nQuestion: Who", "Paris"),
        ("\n\nParis\n\nIt is", "Paris"),
        ("Answer: Paris", "Paris"),
        ("Answer:\nParis", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ("**Paris**", "Paris"),
        ("So the final answer is: 42", "42"),
        ("The answer is Paris.", "Paris."),
        ("The answer to this question is: 2014", "2014"),
        ("<think>Is it Rome?\n</think>\n\nParis", "Paris"),
        ("<think>Is it Rome", ""),
        (
            "George R. R. Martin is an American novelist. He was born in 1948.",
            "George R. R. Martin is an American novelist",
        ),
        ("It was released in the year 1999. The film", "It was released in the year 1999"),
        ("Mr. Smith Goes to Washington", "Mr. Smith Goes to Washington"),
        ("Dr. No and the island of Crab Key", "Dr. No and the island of Crab Key"),
        ("Monsters, Inc.", "Monsters, Inc."),
        ("Yahoo! Inc", "Yahoo! Inc"),
        ("Answer Me", "Answer Me"),
        ("\u6771\u4eac\u3002\u65e5\u672c\u306e\u9996\u90fd", "\u6771\u4eac"),
        ("", ""),
        (" \n**\n ", ""),
    ],
)
def test_a_short_answer_ends_with_its_line_or_its_first_sentence(written: str, answer: str) -> None:
    assert cut_answer(written) == answer


@given(st.text())
def test_a_short_answer_is_one_line_without_a_thought_and_part_of_the_reply(written: str) -> None:
    answer = cut_answer(written)
    assert answer in written
    assert len(answer.splitlines()) <= 1
    assert "<think>" not in answer


@pytest.mark.parametrize(
    ("reasoning", "answer"),
    [
        (r"It is \boxed{Rome}, no, \boxed{\text{New York}}.", "New York"),
        ("Reasoning.\nAnswer: Paris\n", "Paris"),
        ("Answer: a\nNo.\n**Final answer:** b", "b"),
        ("Rome is in Italy. So the answer is Paris.", "Paris."),
        ("<think>Answer: Rome</think>Answer: Paris", "Paris"),
        ("I cannot answer: nothing is known", ""),
        (r"\boxed{}", ""),
        ("Paris", ""),
    ],
)
def test_what_reasoning_ends_with(reasoning: str, answer: str) -> None:
    assert conclusion(reasoning) == answer


@pytest.mark.parametrize(
    ("reply", "without"),
    [
        ("unknown", True),
        ("Unknown.", True),
        ("I don't know", True),
        ("The document does not mention the author.", True),
        ("Her nationality is not specified.", True),
        ("The year is unknown.", True),
        ("", True),
        ("The Who", False),
        ("None", False),
        ("Unknown Pleasures", False),
    ],
)
def test_replies_without_an_answer(reply: str, without: bool) -> None:
    assert abstains(reply) is without


def test_the_majority_counts_what_exact_match_cannot_tell_apart() -> None:
    assert majority(["Rome", "The Beatles", "beatles!", "unknown", "unknown", "unknown"]) == "The Beatles"
    assert majority(["b", "a", "a", "b", "c"]) == "b"  # of equally many votes, the first
    assert majority(["unknown", "I don't know", ""]) == ""
    assert majority([]) == ""


@given(st.lists(st.sampled_from(["x", "X", "the x", "y", "Y.", "z", "unknown"])))
def test_the_majority_has_the_most_votes_and_came_first(answers: list[str]) -> None:
    winner = majority(answers)
    votes = Counter(answer_key(answer) for answer in answers if answer != "unknown")
    if not votes:
        assert winner == ""
        return
    most = max(votes.values())
    first = next(answer for answer in answers if votes[answer_key(answer)] == most)
    assert winner == first


@given(st.sampled_from(["The Beatles", "beatles", "Beatles!", "!!!", "The", "the "]), st.sampled_from(["The", "a b"]))
def test_equal_keys_are_exact_matches(one: str, other: str) -> None:
    assert (answer_key(one) == answer_key(other)) == bool(exact_match(one, [other]))
