"""Rollouts that run ahead of the updates: the bound on their age, what stays as it is, and what is dropped when."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import replace

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from zerosearch_agents.config.train import OutputConfig, RolloutConfig, TrainConfig
from zerosearch_agents.config.vllm import parse_sampler
from zerosearch_agents.rollouts.async_rollouts import AsyncRollouts, Entry, ThreadedRollouts, last_async_step
from zerosearch_agents.rollouts.rollout import RolloutPool
from zerosearch_agents.runs.output import config_differences
from zerosearch_agents.sampling.protocol import TurnSample, TurnSampler
from zerosearch_env.engines import ConstantEngine, FailingEngine
from zerosearch_env.errors import ConfigError, EngineError, TrainingError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question, StopReason

QUESTION = Question("q", "letter 0", ("k",))
RULES = make_rules(prompt_template="{question}\n", max_turns=6, top_k=1)
KINDS = [AsyncRollouts, ThreadedRollouts]


class Turns:
    """A sampler whose turns end in a random order; a row's seed is the number of its turns that are still to come."""

    context_tokens = 10_000

    def __init__(self, seed=0):
        self.random, self.weight_version = random.Random(seed), 0
        self.left, self.version, self.most, self.closed = {}, {}, 0, False
        self.woken = threading.Event()

    def start(self, key, ids, seed):
        self.left[key] = seed
        self.most = max(self.most, len(self.left))
        self.extend(key, ids)

    def extend(self, key, ids):
        self.version[key] = self.weight_version

    def finish(self, key):
        self.version.pop(key, None)
        del self.left[key]

    def run(self, minimum=1):
        if self.woken.is_set():
            self.woken.clear()
            return []
        key = self.random.choice(sorted(self.version))
        self.left[key] -= 1
        text = "<search>k</search>" if self.left[key] > 0 else "<answer>k</answer>"
        return [TurnSample(key, (5,), (-1.0,), text, "stop", self.version.pop(key))]

    def wake(self):
        self.woken.set()

    def refresh(self, version=None):
        self.weight_version = version

    def greedy(self):
        return contextlib.nullcontext()

    def before_training(self):
        pass

    def close(self):
        self.closed = True


def make(kind, sampler, engine=None, room=4):
    engine = engine or ConstantEngine()
    return kind(lambda: RolloutPool(engine, sampler, tiny.tiny_tokenizer()), room)


def entries(lengths, first=0):
    return [Entry((0, i), Episode(QUESTION, RULES, seed=first + i), n) for i, n in enumerate(lengths)]


def settings_of(steps, staleness, every):
    return TrainConfig(
        steps=steps, rollout=RolloutConfig(max_staleness=staleness), files=OutputConfig(checkpoint_every=every)
    )


@given(st.integers(1, 30), st.integers(0, 5), st.one_of(st.none(), st.integers(1, 9)))
def test_the_last_step_ahead_is_the_last_one_that_nothing_forbids(steps, staleness, every):
    config = settings_of(steps, staleness, every)
    for step in range(steps):
        allowed = [step]
        for later in range(step + 1, min(step + staleness + 1, steps)):
            if every is not None and later % every == 0:
                break  # a checkpoint is written before it
            allowed.append(later)
        assert last_async_step(config, step) == allowed[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(st.data())
def test_no_turn_is_older_than_allowed_and_every_rollout_comes_once(kind, data):
    steps, staleness = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
    config = settings_of(steps, staleness, data.draw(st.one_of(st.none(), st.integers(1, 4))))
    count, room = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    lengths = data.draw(st.lists(st.lists(st.integers(1, 6), min_size=count, max_size=count), min_size=6, max_size=6))
    sampler = Turns(data.draw(st.integers(0, 99)))
    ahead = make(kind, sampler, room=room)
    try:
        for step in range(steps):
            for later in range(step, last_async_step(config, step) + 1):
                if not ahead.knows((later, 0)):
                    ahead.add((later, 0), entries(lengths[later], first=10 * later))
            found = ahead.take((step, 0))
            assert not ahead.knows((step, 0))
            assert sorted(found) == [(0, i) for i in range(count)]
            for (_, i), one in found.items():
                assert one.episode.seed == 10 * step + i
                assert one.turns == len(one.weight_versions) == lengths[step][i]
                assert sorted(one.weight_versions) == list(one.weight_versions)
                assert step - staleness <= one.weight_versions[0]
                assert one.weight_versions[-1] <= step
            with ahead.paused():
                sampler.refresh(step + 1)
        assert not sampler.left
        assert sampler.most <= room
    finally:
        ahead.close()


def test_the_tail_of_a_step_is_filled_and_what_is_ahead_goes_on_with_new_weights():
    """By hand: one long episode holds a step up, while those of the next one play; they are there at once then."""
    sampler = Turns()
    ahead = make(AsyncRollouts, sampler, room=2)
    ahead.add((0, 0), entries([1, 6]))
    ahead.add((1, 0), entries([1, 6]))
    sampler.random.choice = lambda keys: keys[0] if keys[0] != 1 else keys[-1]  # the long one last
    assert {one.weight_versions[-1] for one in ahead.take((0, 0)).values()} == {0}
    assert not sampler.left
    sampler.refresh(1)
    ahead.add((2, 0), entries([2]))
    played = ahead.take((1, 0))
    assert {version for one in played.values() for version in one.weight_versions} == {0}
    assert ahead.take((2, 0))[0, 0].weight_versions == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_first_is_played_before_what_is_ahead(kind):
    sampler = Turns()
    ahead = make(kind, sampler, room=1)
    with ahead.paused():
        ahead.add((1, 0), entries([1] * 5))
        ahead.add((0, 8), entries([2, 1], first=50), first=True)
    found = ahead.take((0, 8))
    assert [found[0, i].episode.seed for i in range(2)] == [50, 51]
    if kind is AsyncRollouts:
        assert ahead._missing == {(1, 0): 5}
    assert len(ahead.take((1, 0))) == 5
    ahead.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_drops_everything(kind):
    sampler = Turns()
    ahead = make(kind, sampler)
    ahead.add((0, 0), entries([1, 2]))
    ahead.add((1, 0), entries([6] * 6))
    ahead.take((0, 0))
    ahead.reset()
    assert not sampler.left
    assert not ahead.knows((1, 0))
    sampler.refresh(9)
    ahead.add((1, 0), entries([2] * 3))
    assert {one.weight_versions for one in ahead.take((1, 0)).values()} == {(9, 9)}
    ahead.close()
    ahead.close()


def names():
    return {thread.name for thread in threading.enumerate()}


class Held(ConstantEngine):
    """Its searches come back when they are released."""

    waits = True

    def __init__(self):
        super().__init__()
        self.asked, self.release = threading.Event(), threading.Event()

    async def asearch(self, request):
        self.asked.set()
        while not self.release.is_set():
            await asyncio.sleep(0.001)
        return self.search([request])[0]


@pytest.mark.parametrize("end", ["still", "reset", "close"])
def test_a_search_that_does_not_come_back_holds_nobody_up(end):
    sampler, engine = Turns(), Held()
    ahead = make(ThreadedRollouts, sampler, engine)
    ahead.add((0, 0), entries([2, 2]))
    assert engine.asked.wait(60)
    if end == "still":
        with ahead.paused():
            sampler.refresh(1)
        engine.release.set()
        assert {one.weight_versions for one in ahead.take((0, 0)).values()} <= {(0, 1), (0, 0)}
    elif end == "reset":
        ahead.reset()
        assert not sampler.left
    ahead.close()
    assert not names() & {"zerosearch-rollouts", "zerosearch-searches"}


@pytest.mark.parametrize("kind", KINDS)
def test_failures_on_the_way(kind):
    ahead = make(kind, Turns(), FailingEngine("gave up", after=3))
    ahead.add((0, 0), entries([1]))
    ahead.add((1, 0), entries([3] * 4))
    assert ahead.take((0, 0))[0, 0].stop_reason is StopReason.ANSWER
    failed = [one for one in ahead.take((1, 0)).values() if one.stop_reason is StopReason.ENGINE_ERROR]
    assert {one.error for one in failed} == {"gave up"}
    ahead.close()


class Broken(Turns):
    """A sampler that fails when it is told to."""

    error = None

    def run(self, minimum=1):
        if self.error is not None:
            raise self.error
        return super().run(minimum)


@pytest.mark.parametrize("error", [TrainingError("the sampler failed"), EngineError("no"), ZeroDivisionError("why")])
def test_an_error_in_the_thread_is_raised_where_somebody_waits(error):
    sampler = Broken()
    sampler.error = error
    ahead = make(ThreadedRollouts, sampler)
    ahead.add((0, 0), entries([1]))
    for wait in (lambda: ahead.take((0, 0)), ahead.paused().__enter__, ahead.reset):
        with pytest.raises(type(error), match=str(error)):
            wait()
    ahead.close()
    assert not sampler.left
    assert "zerosearch-rollouts" not in names()
    ahead = make(ThreadedRollouts, Turns())
    ahead.close()
    ahead.add((0, 0), entries([1]))
    with pytest.raises(TrainingError, match="closed"):
        ahead.take((0, 0))


def test_the_fake_is_a_sampler():
    assert isinstance(Turns(), TurnSampler)


def test_settings():
    for wrong in (-1, 1.5, True):
        with pytest.raises(ConfigError, match=r"rollout\.max_staleness must be a whole number"):
            TrainConfig(rollout=RolloutConfig(max_staleness=wrong))
    with pytest.raises(ConfigError, match=r"start vLLM as a server and give its address"):
        TrainConfig(rollout=RolloutConfig(max_staleness=1, sampler="vllm"))
    for sampler in ("local", "vllm:http://127.0.0.1:1"):
        config = TrainConfig(rollout=RolloutConfig(max_staleness=2, sampler=sampler))
        assert parse_sampler(config.rollout.sampler).kind in sampler
    before = replace(config, rollout=replace(config.rollout, max_staleness=0))
    assert config_differences(before, config) == ["rollout.max_staleness: 0 -> 2"]
