"""What agents do with what they read: each figure on episodes made by hand."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

from results import made_episode

from zerosearch_agents.evaluation.analysis.behaviour import FIGURES, Behaviour, behaviour
from zerosearch_agents.evaluation.episodes import EpisodeResult
from zerosearch_agents.evaluation.results import Cell
from zerosearch_agents.evaluation.statistics import EMPTY, graded_mean, wilson


def measured(*episodes: EpisodeResult, samples: int = 1, group: str | None = None) -> Behaviour:
    return behaviour(Cell("a", "corpus", 0.5, len(episodes), episodes, samples=samples), group)


def test_right_given_what_was_in_sight() -> None:
    figures = measured(
        made_episode(0, 1.0, found=(0, 1)),
        made_episode(1, 0.0, found=(1, 0)),
        made_episode(2, 1.0, found=(1, 1)),
        made_episode(3, 0.0, found=(0, 0)),
        made_episode(4, 1.0, found=(0,)),
        made_episode(5, 0.0, found=()),  # no search shows nothing
    )
    assert figures.right_seen_last == wilson(2, 2)
    assert figures.right_seen == wilson(2, 3)
    assert figures.right_unseen == wilson(1, 3)


def test_stopping() -> None:
    figures = measured(
        made_episode(0, 1.0, found=(0, 1)),  # at once
        made_episode(1, 0.0, found=(1, 0, 1)),  # searched on
        made_episode(2, 0.0, found=(1,), prediction=None, stop_reason="max_turns"),  # neither
        made_episode(3, 0.0, found=(1,), prediction="unknown", abstained=1.0),  # neither: it declined
        made_episode(4, 0.0, found=(0, 0)),  # unfounded
        made_episode(5, 0.0, found=(0, 0), prediction="unknown", abstained=1.0),
        made_episode(6, 0.0, found=(), prediction="", stop_reason="answer"),
    )
    assert figures.answered_at_once == wilson(1, 4)
    assert figures.searched_on == wilson(1, 4)
    assert figures.answered_unfounded == wilson(1, 3)


def test_recovery_by_the_place_of_the_noisy_search() -> None:
    figures = measured(
        made_episode(0, 1.0, found=(0, 1), noisy_searches=(1, 0)),
        made_episode(1, 0.0, found=(0,), noisy_searches=(1,)),
        made_episode(2, 1.0, found=(1, 0, 0, 1), noisy_searches=(0, 1, 1, 0)),
        made_episode(3, 0.0, found=(0, 0, 0, 0), noisy_searches=(0, 0, 0, 1)),
        made_episode(4, 1.0, found=(1,), noisy_searches=(0,)),
    )
    assert figures.recovered_early == wilson(1, 2)
    assert figures.recovered_middle == wilson(1, 1)
    assert figures.recovered_late == wilson(1, 2)
    # 1 of 1, 0 of 1, 2 of 2, 0 of 1; the last episode has no noisy search
    assert figures.searched_again == graded_mean([1.0, 0.0, 1.0, 0.0])


def test_a_noisy_search_counts_as_often_as_the_question_not_the_search() -> None:
    figures = measured(
        made_episode(0, found=(0, 0, 0), noisy_searches=(1, 1, 1)),
        made_episode(1, found=(0,), noisy_searches=(1,)),
    )
    assert figures.searched_again == graded_mean([2 / 3, 0.0])


def test_episodes_that_do_not_say_what_they_found_and_failures_are_left_out() -> None:
    earlier = replace(made_episode(0, 1.0, found=(1,)), found=(), noisy_searches=())
    unknown = made_episode(1, 1.0, found=(-1, 1))
    failed = made_episode(2, 1.0, found=(1,), stop_reason="engine_error")
    figures = measured(earlier, unknown, failed)
    assert figures == Behaviour(*[EMPTY] * len(fields(Behaviour)))
    assert math.isnan(figures.right_seen.mean)


def test_groups_and_samples() -> None:
    rows = (
        made_episode(0, 1.0, found=(1,), group="1-hop"),
        made_episode(1, 0.0, found=(1,), group="2-hop"),
    )
    assert measured(*rows, group="2-hop").right_seen == wilson(0, 1)
    assert measured(*rows).right_seen == wilson(1, 2)
    samples = (
        made_episode(0, 1.0, found=(1,)),
        made_episode(0, 0.0, found=(1,), sample=1),
        made_episode(0, 0.0, found=(0,), sample=2),
    )
    figures = measured(*samples, samples=3)
    assert figures.right_seen == graded_mean([0.5])
    assert figures.right_unseen == graded_mean([0.0])


def test_as_dict_is_json_and_every_figure_has_a_label() -> None:
    values = measured(made_episode(0, 1.0, found=(1,))).as_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["recovered_early"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert list(values) == list(FIGURES) == [entry.name for entry in fields(Behaviour)]
