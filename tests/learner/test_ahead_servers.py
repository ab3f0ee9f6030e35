"""Rollouts that run ahead on servers: they are played while the learner updates, with the right weights, or not at all.

The fake server holds every turn of a later step back until the learner is inside an update (events, no clock).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest
import tiny
import torch
from fake_vllm import FakeVLLM
from test_vllm_sampler import own_logprobs

from zerosearch_agents.config.train import AlgorithmConfig, OutputConfig, RolloutConfig
from zerosearch_agents.config.vllm import VLLMConfig
from zerosearch_agents.processes.workers import Workers, start_workers
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_agents.training import trainer
from zerosearch_agents.training.run_files import RunFiles
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import TrainingError

PATIENCE_S = 60
"""After which a test that waits in vain fails."""


class GatedVLLM(FakeVLLM):
    """Answers turns of questions that the running step does not have only while `updating` is set."""

    def __init__(self, policy, **faults):
        self.updating, self.answered_ahead, self.held_back = threading.Event(), threading.Event(), threading.Event()
        self.open_questions, self.ahead = None, 0
        self.marks = {f"letter {number}\n": number for number in range(8)}
        super().__init__(policy, **faults)

    async def _answer(self, call):
        ahead = False
        if call.path == "/v1/completions" and self.open_questions is not None:
            text = self.tokenizer.decode(call.body["prompt"])
            ahead = next(number for mark, number in self.marks.items() if text.startswith(mark))
            ahead = ahead not in self.open_questions
        while ahead and not self.updating.is_set():
            self.held_back.set()
            await asyncio.sleep(0.001)
        reply = await super()._answer(call)
        if ahead:
            self.ahead += 1
            self.answered_ahead.set()
        return reply


def config_for(folder, *servers, staleness=1, **changes):
    urls = ",".join(server.root for server in servers)
    values = {
        "rollout": RolloutConfig(
            prompts=2, group_size=3, slots=16, turn_tokens=4, sampler=f"vllm:{urls}", max_staleness=staleness
        ),
        # With a KL every rollout is trained on, whatever the rewards are.
        "algorithm": AlgorithmConfig(kl_coefficient=0.1),
        "files": OutputConfig(checkpoint_every=None),
        "vllm": VLLMConfig(timeout_s=100.0),
    }
    return tiny.tiny_train_config(folder, **(values | changes))


def no_thread_is_left():
    return not {thread.name for thread in threading.enumerate()} & {"zerosearch-rollouts", "zerosearch-searches"}


@contextmanager
def gated_update(monkeypatch, server, then=lambda: None):
    """The first update of a step waits inside until a turn of the next step has been answered, and does `then`."""
    original = trainer.update

    def update(*arguments, **options):
        if not server.updating.is_set():
            server.updating.set()
            assert server.answered_ahead.wait(PATIENCE_S), "nothing was sampled during the update"
            then()
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "update", update)
        yield


def gate(server, learner, step):
    from zerosearch_agents.training.curriculum import choose_questions

    chosen = choose_questions(len(learner.dataset.questions), learner.config.rollout.prompts, learner.config.seed, step)
    server.open_questions = {int(learner.dataset.questions[index].id[1:]) for index in chosen}
    server.updating.clear()
    server.answered_ahead.clear()
    server.ahead = 0


@pytest.mark.slow
def test_turns_are_answered_while_the_learner_updates_and_carry_the_weights_that_sampled_them(tmp_path, monkeypatch):
    with GatedVLLM(tiny.tiny_policy()) as server:
        learner = build_learner(config_for(tmp_path, server, steps=4), Workers(), tiny.tiny_dataset())
        weights = {}
        refresh = learner.sampler.refresh

        def remembered(version=None):
            weights[version] = {n: p.detach().clone() for n, p in learner.policy.model.named_parameters()}
            refresh(version)

        monkeypatch.setattr(learner.sampler, "refresh", remembered)
        weights[0] = {n: p.detach().clone() for n, p in learner.policy.model.named_parameters()}
        played = []
        with closing(learner):
            for step in range(3):
                gate(server, learner, step)
                with gated_update(monkeypatch, server):
                    played.append(train_step(learner, step))
        assert no_thread_is_left()
    versions = [{v for group in groups for one in group for v in one.weight_versions} for _, groups in played]
    assert versions[0] == {0}
    assert versions[1] <= {0, 1}
    assert 0 in versions[1]
    assert 1 in versions[2]
    assert versions[2] <= {1, 2}
    assert [metrics["staleness_max"] for metrics, _ in played] == [0, 1, 1]
    model = learner.policy.model
    turns = 0
    for one in (one for _, groups in played for group in groups for one in group):
        starts = np.flatnonzero(np.diff(one.loss_mask.astype(int), prepend=0) == 1)
        ends = np.flatnonzero(np.diff(one.loss_mask.astype(int), append=0) == -1) + 1
        for begin, end, version in zip(starts, ends, one.weight_versions, strict=False):
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(weights[version][name])
            own = own_logprobs(model, one.token_ids[:begin].tolist(), one.token_ids[begin:end].tolist())
            np.testing.assert_allclose(one.logprobs[begin:end], own, atol=1e-5)
            turns += 1
    assert turns > 20


@pytest.mark.slow
def test_a_server_that_is_restarted_during_the_update_is_found_out_before_anything_is_trained_on(tmp_path, monkeypatch):
    with GatedVLLM(tiny.tiny_policy()) as server:
        learner = build_learner(config_for(tmp_path, server), Workers(), tiny.tiny_dataset())
        with closing(learner):
            gate(server, learner, 0)
            loads = len(server.loaded)
            with gated_update(monkeypatch, server, server.restart), pytest.raises(TrainingError, match="restarted"):
                train_step(learner, 0)
            assert len(server.loaded) == loads  # its weights were looked at before new ones went there
        assert no_thread_is_left()


@pytest.mark.slow
def test_a_server_that_is_restarted_during_the_rollouts_is_found_out_before_the_update(tmp_path, monkeypatch):
    with GatedVLLM(tiny.tiny_policy()) as server:
        learner = build_learner(config_for(tmp_path, server), Workers(), tiny.tiny_dataset())
        monkeypatch.setattr(trainer, "update", lambda *_, **__: pytest.fail("trained on what it should not"))
        with closing(learner):
            gate(server, learner, 0)
            complete = server.complete

            def restarting(body):
                if server.version != "default":
                    server.restart()
                return complete(body)

            server.complete = restarting
            with pytest.raises(TrainingError, match="restarted"):
                train_step(learner, 0)
            # turns of the next step were in progress then
            assert server.held_back.wait(PATIENCE_S)
        assert no_thread_is_left()


@pytest.mark.slow
def test_a_server_that_fails_during_the_update_ends_the_run(tmp_path, monkeypatch):
    with GatedVLLM(tiny.tiny_policy()) as server:
        learner = build_learner(config_for(tmp_path, server), Workers(), tiny.tiny_dataset())

        def fail():
            server.fail = 400
            waiting = learner.async_rollouts._state
            with waiting:
                assert waiting.wait_for(lambda: learner.async_rollouts._error is not None, PATIENCE_S)

        with closing(learner):
            gate(server, learner, 0)
            with gated_update(monkeypatch, server, fail), pytest.raises(TrainingError, match="broken"):
                train_step(learner, 0)
        assert no_thread_is_left()


class FailsLater(ConstantEngine):
    """Raises from the fifth search on what no engine should raise."""

    asked = 0

    def search(self, requests):
        self.asked += len(requests)
        if self.asked > 4:
            raise ZeroDivisionError("a fault of the engine")
        return super().search(requests)


@pytest.mark.slow
def test_an_engine_with_a_fault_fails_its_searches_and_the_run_goes_on(tmp_path):
    with FakeVLLM(tiny.tiny_policy()) as server:
        result = train(config_for(tmp_path, server, steps=4), dataset=tiny.tiny_dataset(), engine=FailsLater())
    rows = read_metrics(result.output / "metrics.jsonl")
    assert len(rows) == 4
    assert sum(row["engine_failures"] for row in rows) > 0
    assert no_thread_is_left()


@pytest.mark.slow
def test_a_run_on_two_servers_with_checkpoints(tmp_path):
    """From the command's entry to its end: labels, barrier, first check with turns in progress, nothing left over."""
    with FakeVLLM(tiny.tiny_policy()) as one, FakeVLLM(tiny.tiny_policy()) as other:
        config = config_for(tmp_path, one, other, staleness=2, steps=4, files=OutputConfig(checkpoint_every=3))
        result = train(config, dataset=tiny.tiny_dataset())
        assert result.step == 4
        rows = read_metrics(result.output / "metrics.jsonl")
        assert all(row["staleness_max"] <= 2 for row in rows)
        assert [rows[step]["staleness_max"] for step in (0, 3)] == [0, 0]
        assert [rows[step]["mismatch_kl"] < 1e-8 for step in (0, 3)] == [True, True]
        assert len(one.loaded) == len(other.loaded) == 2 + 4  # trial, back, and every step
        assert not list((result.output / "sync").glob("*"))
    assert no_thread_is_left()


@pytest.mark.slow
def test_ctrl_c_once_stops_after_the_step(tmp_path):
    with FakeVLLM(tiny.tiny_policy()) as server:
        config = config_for(tmp_path, server, steps=2)
        stopped = train(
            config, dataset=tiny.tiny_dataset(), callback=lambda report: os.kill(os.getpid(), signal.SIGINT)
        )
        assert (stopped.stopped, stopped.step) == ("interrupt", 1)
        assert no_thread_is_left()
        assert train(config, dataset=tiny.tiny_dataset(), resume=True).step == 2


@pytest.mark.slow
def test_ctrl_c_twice_while_the_servers_are_silent(tmp_path, monkeypatch):
    with GatedVLLM(tiny.tiny_policy()) as server:
        config = config_for(tmp_path, server)
        restore = RunFiles.restore

        def silenced(self):
            step = restore(self)
            server.open_questions = set()  # from now on no turn is answered
            return step

        monkeypatch.setattr(RunFiles, "restore", silenced)

        before = signal.getsignal(signal.SIGINT)

        def interrupt():
            assert server.held_back.wait(PATIENCE_S)
            os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + PATIENCE_S
            while signal.getsignal(signal.SIGINT) is not before and time.monotonic() < deadline:
                time.sleep(0.001)  # two signals at once would be one
            os.kill(os.getpid(), signal.SIGINT)

        finger = threading.Thread(target=interrupt)
        finger.start()
        with pytest.raises(KeyboardInterrupt):
            train(config, dataset=tiny.tiny_dataset())
        finger.join()
        server.updating.set()
    assert no_thread_is_left()


def _three_steps(workers, config):
    learner = build_learner(config, workers, tiny.tiny_dataset())
    with closing(learner):
        played = [train_step(learner, step) for step in range(3)]
    return [
        max(step - version for group in groups for one in group for version in one.weight_versions)
        for step, (_, groups) in enumerate(played)
    ]


def _worker(workers, config):
    _three_steps(workers, config)


@pytest.mark.slow
def test_several_workers_share_servers(tmp_path):
    """Their turns in progress differ when the weights come, and still they take part in every exchange."""
    with FakeVLLM(tiny.tiny_policy()) as server:
        config = config_for(tmp_path, server, staleness=2)
        with start_workers(2, _worker, config) as workers:
            ages = _three_steps(workers, config)
    assert ages[0] == 0
    assert all(age <= 2 for age in ages)
