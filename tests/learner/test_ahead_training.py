"""Training with rollouts that run ahead: the same episodes, checkpoints as barriers, resumes, rollbacks, workers."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from metrics_page import DOCUMENTED

from zerosearch_agents.config.alarms import BOUNDS, AlarmConfig
from zerosearch_agents.config.train import AlgorithmConfig, OptimizerConfig, OutputConfig, RolloutConfig, ScaleConfig
from zerosearch_agents.processes.workers import Workers, start_workers
from zerosearch_agents.runs.checkpoint import load_latest, weights_hash
from zerosearch_agents.runs.metrics import read_metrics, staleness_metrics
from zerosearch_agents.runs.rollbacks import read_rollbacks
from zerosearch_agents.training import run_files
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.engines import FailingEngine
from zerosearch_env.errors import TrainingError
from zerosearch_env.records.transcripts import read_transcripts

pytestmark = pytest.mark.slow

TIMES = {"seconds", "tokens_per_second", "rollout_seconds", "update_seconds"}
STILL = OptimizerConfig(learning_rate=1e-30, warmup_steps=0)
"""Leaves every weight as it is."""
EVERY = 3


def config_of(folder, staleness=1, **changes):
    values = {
        "steps": 7,
        # fewer slots than episodes: those of a step leave and enter one by one
        "rollout": RolloutConfig(prompts=3, group_size=4, slots=8, turn_tokens=4, max_staleness=staleness),
        "files": OutputConfig(checkpoint_every=EVERY, transcripts_every=2, transcripts=3),
    }
    return tiny.tiny_train_config(folder, **(values | changes))


def run(config, **options):
    return train(config, dataset=tiny.tiny_dataset(), **options)


def learning(output):
    rows = read_metrics(Path(output) / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def saved(output):
    return weights_hash(load_latest(Path(output) / "checkpoints")[2])


def ages(groups, step):
    return [step - version for group in groups for one in group for version in one.weight_versions]


def play(workers, config, steps, engine=None):
    """The rollouts of some steps, and this worker's end state. Runs in every worker."""
    learner = build_learner(config, workers, tiny.tiny_dataset(), engine)
    played = [train_step(learner, step) for step in range(steps)]
    learner.close()
    return played


def test_questions_noise_seeds_and_tokens_are_those_of_an_on_policy_run(tmp_path):
    """With weights that do not move, every step plays to the token what it plays without running ahead."""
    algorithm = AlgorithmConfig(dynamic_sampling_rounds=2)
    files = OutputConfig(checkpoint_every=None)
    plain = play(Workers(), config_of(tmp_path, 0, algorithm=algorithm, optimizer=STILL, files=files), 4)
    ahead = play(Workers(), config_of(tmp_path, 2, algorithm=algorithm, optimizer=STILL, files=files), 4)
    old = 0
    for step, ((metrics, one), (others, other)) in enumerate(zip(plain, ahead, strict=True)):
        assert len(one) == len(other) >= 3
        assert set(ages(one, step)) == {0}
        assert set(ages(other, step)) <= {0, 1, 2}
        old += max(ages(other, step)) > 0
        for group, others_group in zip(one, other, strict=True):
            for a, b in zip(group, others_group, strict=True):
                assert (a.episode.question, a.episode.seed) == (b.episode.question, b.episode.seed)
                assert a.noise_level == b.noise_level == metrics["noise_level"] == others["noise_level"]
                np.testing.assert_array_equal(a.token_ids, b.token_ids)
                np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
                assert a.scores == b.scores
        for group in other[3:]:  # further rounds of dynamic sampling are on-policy
            assert {version for b in group for version in b.weight_versions} == {step}
    assert old >= 3
    assert any(len(groups) > 3 for _, groups in ahead)


def test_the_metrics_by_hand():
    from test_batch import make_rollout

    base = make_rollout(10, 0)
    trained = [replace(base, weight_versions=(3, 4)), replace(base, weight_versions=(5,))]
    assert staleness_metrics(trained, 5) == {"staleness": 1.0, "staleness_max": 2.0}
    assert staleness_metrics([replace(base, weight_versions=())], 5) == {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its configuration, its result, and the ages of every step's turns."""
    config = config_of(tmp_path_factory.mktemp("whole"), 2, seed=1)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        original = run_files.RunFiles.record

        def record(self, step, metrics, groups, held_out):
            found.append(ages(groups, step - 1))
            return original(self, step, metrics, groups, held_out)

        patch.setattr(run_files.RunFiles, "record", record)
        result = run(config)
    return config, result, found


def test_turns_are_as_old_as_the_distance_to_the_last_checkpoint_allows(whole):
    config, result, found = whole
    assert result.step == 7
    for step, of_step in enumerate(found):
        # step 0, and those behind a checkpoint, begin with nothing in flight
        assert min(2, step % EVERY) >= max(of_step)
        assert min(of_step) >= 0
    assert sum(max(of_step) > 0 for of_step in found) >= 3
    rows = learning(config.output)
    assert set(rows[1]) <= set(DOCUMENTED)
    assert [row["staleness_max"] for row in rows[::EVERY]] == [0, 0, 0]
    assert max(row["staleness"] for row in rows) > 0
    rows = [row for row in rows if row["updates"]]
    # what is older was sampled by other weights: the learner's log-probabilities are not the sampler's any more
    fresh, stale = ([row["mismatch_kl"] for row in rows if (row["staleness"] > 0) == is_old] for is_old in (0, 1))
    assert max(fresh) < 1e-6 < max(stale)


class KilledError(Exception):
    """Stands for a kill: nothing after it runs."""


def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path, monkeypatch):
    """Killed before the first checkpoint, behind it, and at the second one's barrier."""
    config = replace(whole[0], output=str(tmp_path / "run"))
    original = run_files.RunFiles.record
    for killed_in in (2, 4, 6):

        def record(self, step, metrics, groups, held_out, killed_in=killed_in):
            if step == killed_in:
                raise KilledError
            return original(self, step, metrics, groups, held_out)

        with monkeypatch.context() as patch:
            patch.setattr(run_files.RunFiles, "record", record)
            with pytest.raises(KilledError):
                run(config, resume=killed_in > 2)
        assert learning(config.output) == learning(whole[0].output)[: killed_in - 1]
    again = run(config, resume=True)
    assert again.step == 7
    assert learning(config.output) == learning(whole[0].output)
    assert saved(config.output) == saved(whole[0].output)
    transcripts = [list(read_transcripts(Path(one.output) / "transcripts.jsonl")) for one in (config, whole[0])]
    assert transcripts[0] == transcripts[1]


def test_after_ctrl_c_what_was_in_flight_is_played_anew(whole, tmp_path):
    config = replace(whole[0], output=str(tmp_path / "run"))
    result = run(config, callback=lambda report: report.step == 2 and os.kill(os.getpid(), signal.SIGINT))
    assert (result.stopped, result.step) == ("interrupt", 2)
    assert learning(config.output) == learning(whole[0].output)[:2]
    result = run(config, resume=True)
    assert result.step == 7
    rows = learning(config.output)
    assert rows[2]["staleness_max"] == 0 < learning(whole[0].output)[2]["staleness_max"]
    assert [row["step"] for row in rows] == list(range(1, 8))


def test_a_rollback_drops_what_is_in_flight(tmp_path, monkeypatch):
    """A process that goes on after it has turned back does what a fresh one does."""
    quiet = {bound.field: None for bound in BOUNDS} | {"reward_fraction": None}
    alarms = {"action": "rollback", "patience": 1, "invalid_rate_above": 0.9, "max_rollbacks": 1}
    config = config_of(
        tmp_path,
        optimizer=OptimizerConfig(learning_rate=0.5, warmup_steps=2),
        algorithm=AlgorithmConfig(kl_coefficient=0.01),
        alarms=AlarmConfig(**(quiet | alarms)),
        files=OutputConfig(checkpoint_every=2, transcripts_every=None),
        steps=12,
    )
    with pytest.raises(TrainingError, match="rolled back 1 times already"):
        run(config)
    assert len(read_rollbacks(Path(config.output))) == 1
    mine = replace(config, output=str(tmp_path / "killed"))
    original = run_files.RunFiles.roll_back

    def roll_back(self, step):
        if original(self, step):
            raise KilledError
        return False

    with monkeypatch.context() as patch:
        patch.setattr(run_files.RunFiles, "roll_back", roll_back)
        with pytest.raises(KilledError):
            run(mine)
    with pytest.raises(TrainingError, match="rolled back 1 times already"):
        run(mine, resume=True)
    assert learning(mine.output) == learning(config.output)
    assert saved(mine.output) == saved(config.output)
    assert max(row["staleness_max"] for row in learning(mine.output)) == 1


def test_searches_that_fail_ahead_count_in_their_own_step(tmp_path):
    config = config_of(tmp_path, 2, files=OutputConfig(checkpoint_every=None))
    played = play(Workers(), config, 2, FailingEngine("down", after=4))
    counted = [metrics["engine_failures"] for metrics, _ in played]
    lost = [sum(one.error == "down" for group in groups for one in group) for _, groups in played]
    assert counted == lost
    assert lost[1] > 0


def tokens(played):
    return [[[one.token_ids.tolist() for one in group] for group in groups] for _, groups in played]


def play_worker(workers, config, steps):
    """What the other worker does."""
    play(workers, config, steps)


def test_two_workers_play_ahead_what_one_plays_on_policy(tmp_path):
    config = config_of(tmp_path, optimizer=STILL)
    with start_workers(2, play_worker, config, 4) as workers:
        together = play(workers, config, 4)
    assert tokens(together) == tokens(play(Workers(), config_of(tmp_path, 0, optimizer=STILL), 4))
    assert any(max(ages(groups, step)) == 1 for step, (_, groups) in enumerate(together))


def test_two_workers_learn_and_their_turns_keep_the_bound(tmp_path):
    config = config_of(tmp_path, workers=2, steps=5)
    assert run(config).step == 5
    rows = learning(config.output)
    assert {row["staleness_max"] for row in rows} == {0, 1}
    assert [row["staleness_max"] for row in rows[::EVERY]] == [0, 0]


def test_a_sharded_policy_plays_ahead(tmp_path):
    config = config_of(tmp_path, scale=ScaleConfig(fsdp="on"))
    with start_workers(2, play_worker, config, 3) as workers:
        played = play(workers, config, 3)
    assert [max(ages(groups, step)) <= 1 for step, (_, groups) in enumerate(played)] == [True] * 3
    assert max(ages(played[1][1], 1)) == 1


def test_adapters_play_ahead(tmp_path):
    pytest.importorskip("peft")
    from zerosearch_agents.config.lora import LoraShape

    config = config_of(tmp_path, lora=LoraShape(rank=2))
    played = play(Workers(), config, 3)
    assert max(ages(played[1][1], 1)) == 1
    assert played[0][0]["mismatch_kl"] < 1e-6
