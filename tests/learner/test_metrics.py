from __future__ import annotations

import math
from dataclasses import replace

import pytest
from metrics_page import DOCUMENTED
from test_batch import SCORES, make_rollout

from zerosearch_agents.runs.metrics import MetricsLog, read_metrics, rollout_metrics
from zerosearch_env.types import StopReason


def test_metrics_of_rollouts_by_hand():
    right = replace(SCORES, em=1.0, f1=1.0, subem=1.0, reward=1.0, searches=2)
    base = make_rollout(10, 0)
    one = replace(base, scores=right, turns=3, noisy_searches=1, searches_after_noise=1, answered_searches=1)
    wrong = replace(SCORES, hallucinated=1.0, misled=1.0)
    two = replace(base, scores=wrong, turns=2, invalid_turns=1, stop_reason=StopReason.MAX_TURNS)
    failed = replace(base, stop_reason=StopReason.ENGINE_ERROR)
    metrics = rollout_metrics([[one, two], [failed, one]])
    expected = {
        "engine_failures": 1,
        "reward": 2 / 3,
        "reward_std": math.sqrt(2) / 3,
        "em": 2 / 3,
        "misled": 1 / 3,
        "abstained": 0,
        "hallucinated": 1 / 3,
        "searches": 4 / 3,
        "turns": 8 / 3,
        "invalid_rate": 1 / 8,
        "answered": 2 / 3,
        "out_of_turns": 1 / 3,
        "noisy": 0.5,
        "search_again": 1.0,
        "answer_in_documents": 0.5,
        "groups_without_signal": 0.5,
        "episode_tokens": 10,
        "sampled_tokens": base.sampled_tokens,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert set(metrics) <= set(DOCUMENTED)
    assert rollout_metrics([[failed]]) == {"engine_failures": 1}


def test_the_log_is_cut_back_to_where_a_run_resumes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write(1, {"reward": 0.5})
    keep = log.sync()
    log.write(2, {"reward": 0.25})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 3, "rew')
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    log = MetricsLog(path, keep=keep)
    log.write(2, {"reward": 1 / 3})
    log.close()
    assert read_metrics(path) == [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.333333}]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b'{"reward": 1}',
        b'{"step": "2"}',
        b'{"step": 2, "reward": null}',
        b"\xff\x00",
        pytest.param(b"[" * 9**5, id="deep"),
    ],
)
def test_damaged_lines_are_left_out(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n{"step": 4')
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]
    assert caplog.messages == [f"{path}: 1 damaged line is left out, the first is line 2"]


def test_a_log_that_was_cut_goes_on_with_a_new_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste')
    log = MetricsLog(path, keep=40)
    log.write(3, {})
    log.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]
