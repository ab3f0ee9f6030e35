from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import tiny

from zerosearch_agents.config.algorithms import AlgorithmConfig
from zerosearch_agents.config.train import RolloutConfig
from zerosearch_agents.objective.credit import has_signal
from zerosearch_agents.processes.workers import Workers, start_workers
from zerosearch_agents.training import step_rollouts as collect_module
from zerosearch_agents.training.curriculum import choose_more_questions
from zerosearch_agents.training.step_rollouts import sample_step
from zerosearch_agents.training.trainer import build_learner, train_step
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import EngineError

ROUNDS = AlgorithmConfig(dynamic_sampling_rounds=3)


def make_learner(folder, workers=None, **changes):
    config = tiny.tiny_train_config(folder, rollout=RolloutConfig(prompts=4, group_size=3, slots=16), **changes)
    return build_learner(config, workers or Workers(), tiny.tiny_dataset())


def signal(groups):
    return [has_signal(group, mask_overlong=False) for group in groups]


def tokens(groups):
    return [[rollout.token_ids.tolist() for rollout in group] for group in groups]


@pytest.mark.slow
def test_groups_without_signal_are_drawn_anew_within_the_bound(tmp_path):
    learner = make_learner(tmp_path, algorithm=ROUNDS)
    plain = make_learner(tmp_path)
    several = 0
    for step in range(2):
        collected_step, first = sample_step(learner, step, 0.0), sample_step(plain, step, 0.0)
        assert first.trained is first.groups
        assert tokens(collected_step.groups[:4]) == tokens(first.groups)  # the first round is the ordinary one
        assert collected_step.rounds <= 3
        assert collected_step.rounds == 3 or sum(signal(collected_step.groups)) >= 4
        if any(signal(collected_step.groups)):
            assert all(signal(collected_step.trained))
            assert len(collected_step.trained) == sum(signal(collected_step.groups)) <= 4
        several += collected_step.rounds > 1
    assert several


def test_each_round_fills_only_what_is_missing(tmp_path, monkeypatch):
    played = []
    original = collect_module.sample_groups

    def counted(learner, groups, step, first_slot=0):
        played.append((first_slot, len(groups)))
        return original(learner, groups, step, first_slot)

    monkeypatch.setattr(collect_module, "sample_groups", counted)
    collected_step = sample_step(make_learner(tmp_path, algorithm=ROUNDS), 0, 0.0)
    have, slot = sum(signal(collected_step.groups[:4])), 4
    for first_slot, count in played[1:]:
        assert (first_slot, count) == (slot, 4 - have)
        have += sum(signal(collected_step.groups[slot : slot + count]))
        slot += count
    assert len(played) == collected_step.rounds + 1
    assert len(collected_step.groups) == slot


def test_no_two_episodes_of_a_step_share_their_seeds(tmp_path):
    collected_step = sample_step(make_learner(tmp_path, algorithm=ROUNDS), 0, 0.5)
    seeds = [rollout.episode.seed for group in collected_step.groups for rollout in group]
    assert len(collected_step.groups) > 4
    assert len(set(seeds)) == len(seeds)


@pytest.mark.slow
def test_a_step_without_any_signal_goes_on_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(collect_module, "has_signal", lambda group, mask_overlong: False)
    learner = make_learner(tmp_path, algorithm=ROUNDS)
    original = collect_module.sample_groups

    def alike(*arguments):
        groups = original(*arguments)
        return [[replace(rollout, scores=replace(rollout.scores, reward=1.0)) for rollout in group] for group in groups]

    monkeypatch.setattr(collect_module, "sample_groups", alike)
    metrics, groups = train_step(learner, 0)
    assert (metrics["sampling_rounds"], metrics["updates"], metrics["kept_groups"]) == (3, 0, 16)
    assert len(groups) == 16
    assert metrics["groups_without_signal"] == 1


def test_metrics_are_of_everything_that_was_played(tmp_path):
    """Groups that are thrown away count: else the reward would be that of a selection."""
    metrics, groups = train_step(make_learner(tmp_path, algorithm=ROUNDS, seed=1), 0)
    rewards = [rollout.scores.reward for group in groups for rollout in group]
    assert len(groups) > 4
    assert metrics["reward"] == pytest.approx(np.mean(rewards))
    assert metrics["kept_groups"] < len(groups)


def test_further_questions_are_new_ones_first():
    first = choose_more_questions(10, 4, {1, 2, 3}, 0, 5)
    assert len(set(first)) == 4
    assert not set(first) & {1, 2, 3}
    assert first == choose_more_questions(10, 4, {1, 2, 3}, 0, 5)
    assert first != choose_more_questions(10, 4, {1, 2, 3}, 0, 6)
    again = choose_more_questions(3, 7, {0, 1}, 0, 0)
    assert again[0] == 2
    assert sorted(again[1:]) == [0, 0, 1, 1, 2, 2]


def collected(workers, folder):
    """What a step plays, in every worker."""
    collected_step = sample_step(make_learner(folder, workers, algorithm=ROUNDS), 0, 0.0)
    return tokens(collected_step.groups), tokens(collected_step.trained), collected_step.rounds


@pytest.mark.slow
def test_workers_draw_what_one_draws(tmp_path):
    make_learner(tmp_path)
    with start_workers(2, collected, tmp_path) as workers:
        together = collected(workers, tmp_path)
    assert together == collected(Workers(), tmp_path)


def test_a_learner_closes_the_engine_that_it_has_made(tmp_path):
    for given in (None, ConstantEngine()):
        learner = build_learner(tiny.tiny_train_config(tmp_path), Workers(), tiny.tiny_dataset(), given)
        learner.close()
        with pytest.raises(EngineError, match="closed") if given is None else nullcontext():
            learner.engine.search([])
