from __future__ import annotations

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from zerosearch_agents.config.train import CurriculumConfig
from zerosearch_agents.training.curriculum import (
    choose_questions,
    make_group_episodes,
    make_schedule,
    noise_level,
    noise_mixture,
    sampling_seed,
    split_groups,
)
from zerosearch_env.game.noise_kinds import read_mixture, read_noise_kinds
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import SearchRequest


def test_the_papers_noise_at_every_step():
    schedule = make_schedule(CurriculumConfig(start=0.0, end=0.5, base=4.0))
    levels = [noise_level(schedule, step, 203) for step in range(203)]
    expected = [(4 ** (i / 203) - 1) / 3 * 0.5 for i in range(1, 204)]
    np.testing.assert_allclose(levels, expected, rtol=1e-12)
    assert levels[-1] == 0.5


@given(st.integers(1, 5), st.integers(1, 12))
def test_every_stage_of_kinds_has_the_same_number_of_steps(stages, each):
    names = ["empty", "outage", "irrelevant", "empty", "markup"][:stages]
    steps = [str(noise_mixture(read_noise_kinds(names), step, stages * each)) for step in range(stages * each)]
    assert steps == [name for name in names for _ in range(each)]


def test_every_question_comes_once_an_epoch_in_another_order():
    chosen = [index for step in range(9) for index in choose_questions(6, 4, seed=1, step=step)]
    epochs = [chosen[start : start + 6] for start in range(0, 36, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert choose_questions(6, 4, seed=2, step=0) != choose_questions(6, 4, seed=1, step=0)


def test_more_prompts_than_questions_repeat_them():
    assert sorted(choose_questions(2, 5, seed=0, step=0))[:2] == [0, 0]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 5))
def test_groups_are_split_once_each_and_evenly(groups, minibatches, step):
    parts = split_groups(groups, minibatches, 3, step, 0)
    assert sorted(group for part in parts for group in part) == list(range(groups))
    assert len(parts) == min(groups, minibatches)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def _noise(episode, searches=20):
    flags = []
    for _ in range(searches):
        request = episode._request("query")
        assert isinstance(request, SearchRequest)
        flags.append(request.noisy)
    return flags


@pytest.mark.parametrize(("draws", "kinds"), [("episode", 4), ("group", 1)])
def test_members_of_a_group_draw_their_own_noise_or_share_it(draws, kinds):
    questions = tiny.tiny_dataset().questions[:2]
    rules = make_rules(prompt_template="{question}")
    groups = make_group_episodes(questions, rules, noise=0.5, group_size=4, seed=0, step=3, draws=draws)
    assert [[episode.question for episode in group] for group in groups] == [[question] * 4 for question in questions]
    noises = [tuple(_noise(episode)) for group in groups for episode in group]
    assert len(set(noises[:4])) == kinds
    assert len(set(noises)) == 2 * kinds
    assert all(episode.noise_level == 0.5 for group in groups for episode in group)


def test_the_kind_of_noise_changes_no_draw():
    questions, rules = tiny.tiny_dataset().questions[:2], make_rules(prompt_template="{question}")
    kinds = read_mixture({"empty": 0.5, "outage": 0.5})
    plain, mixed = (
        make_group_episodes(questions, rules, noise=0.5, group_size=3, seed=0, step=3, **options)
        for options in ({}, {"kinds": kinds})
    )
    assert [[_noise(e) for e in group] for group in plain] == [[_noise(e) for e in group] for group in mixed]
    assert all(episode.noise_kinds == kinds for group in mixed for episode in group)


def test_sampling_seeds_are_all_different():
    seeds = {sampling_seed(0, step, slot, member) for step in range(4) for slot in range(4) for member in range(4)}
    assert len(seeds) == 64
