"""Rollouts without a turn barrier: background searches, episodes that enter as others leave, independence of timing."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
import tiny

from zerosearch_agents.rollouts.rollout import rollout, stream
from zerosearch_agents.rollouts.searches import BackgroundDesk, DirectDesk, make_desk
from zerosearch_agents.sampling.local import Sampler
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import EngineError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.randomness import uniform
from zerosearch_env.types import Document, Question, SearchRequest, SearchResult, StopReason

QUESTION = Question("q", "letter 0", ("k",))
RULES = make_rules(prompt_template="{question}\n", max_turns=3, top_k=2)


class SlowEngine(ConstantEngine):
    """Waits for a time that depends on the request and on `seed`, and answers with the request's own query."""

    waits = True

    def __init__(self, seed=0, longest_s=0.01, fail=None):
        super().__init__()
        self.seed, self.longest_s, self.fail = seed, longest_s, fail
        self.threads = set()

    def search(self, requests):
        return [self._answer(request) for request in requests]

    async def asearch(self, request):
        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(self.longest_s * uniform(self.seed, request.seed))
        if self.fail is not None:
            raise self.fail
        return self._answer(request)

    def _answer(self, request):
        return SearchResult((Document("", f"{request.query} {request.seed % 97}"),) * request.top_k, engine="slow")


def make_sampler(policy, slots=8):
    return Sampler(
        policy.model,
        policy.tokenizer,
        slots=slots,
        context_tokens=200,
        stop_strings=RULES.protocol.stop_strings,
        turn_tokens=8,
    )


def episodes(count=8):
    return [Episode(QUESTION, RULES, noise_level=0.5, seed=index) for index in range(count)]


def same(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.token_ids, second.token_ids)
        np.testing.assert_array_equal(first.loss_mask, second.loss_mask)
        np.testing.assert_allclose(first.logprobs, second.logprobs, atol=1e-5)
        assert (first.scores, first.stop_reason) == (second.scores, second.stop_reason)


@pytest.fixture(scope="module")
def want():
    """What an engine that answers at once makes of the episodes."""
    policy, quiet = tiny.tiny_policy(), SlowEngine()
    quiet.waits = False
    return rollout(episodes(), quiet, make_sampler(policy), policy.tokenizer)


def test_latencies_change_no_rollout(want):
    policy = tiny.tiny_policy()
    assert sum(one.scores.searches for one in want) > 2
    for seed, slots in ((1, 8), (2, 3)):
        engine = SlowEngine(seed)
        same(rollout(episodes(), engine, make_sampler(policy, slots), policy.tokenizer), want)
        assert engine.threads == {"zerosearch-searches"}


def test_rollouts_come_as_they_end_and_new_episodes_enter_as_others_leave(want):
    policy = tiny.tiny_policy()
    taken = []

    def lazily():
        for episode in episodes():
            taken.append(episode)
            yield episode

    found = {}
    for index, one in stream(lazily(), SlowEngine(3), make_sampler(policy), policy.tokenizer, active=3):
        found[index] = one
        assert len(taken) <= len(found) + 3
    same([found[index] for index in range(8)], want)
    assert list(found) != sorted(found)


def test_generation_goes_on_while_a_search_waits():
    """The one that does not search is over before the other's search comes back."""
    policy = tiny.tiny_policy()
    want = rollout(episodes(), ConstantEngine(), make_sampler(policy), policy.tokenizer)
    searching = {index for index, one in enumerate(want) if one.scores.searches}
    assert 0 < len(searching) < 8
    release = threading.Event()

    class Held(SlowEngine):
        async def asearch(self, request):
            await asyncio.to_thread(release.wait, 60)
            return self._answer(request)

    first = []
    for index, _ in stream(episodes(), Held(), make_sampler(policy), policy.tokenizer):
        first.append(index)
        if len(first) == 8 - len(searching):
            release.set()
    assert set(first[: 8 - len(searching)]).isdisjoint(searching)
    assert sorted(first) == list(range(8))


def test_a_stream_that_is_left_frees_the_sampler():
    policy = tiny.tiny_policy()
    sampler = make_sampler(policy)
    running = stream(episodes(), SlowEngine(0, 5.0), sampler, policy.tokenizer)
    next(running)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 4.0
    same(
        rollout(episodes(2), ConstantEngine(), sampler, policy.tokenizer),
        rollout(episodes(2), ConstantEngine(), make_sampler(policy), policy.tokenizer),
    )


def test_failures_in_the_background():
    policy = tiny.tiny_policy()
    engine = SlowEngine(fail=EngineError("gave up", attempts=3))
    played = rollout(episodes(), engine, make_sampler(policy), policy.tokenizer)
    failed = [one for one in played if one.stop_reason is StopReason.ENGINE_ERROR]
    assert failed
    assert {one.error for one in failed} == {"gave up"}
    played = rollout(episodes(), SlowEngine(fail=ZeroDivisionError("no")), make_sampler(policy), policy.tokenizer)
    assert {one.error for one in played} - {None} == {"SlowEngine raised ZeroDivisionError: no"}


def test_desks():
    policy = tiny.tiny_policy()
    assert isinstance(make_desk(ConstantEngine(), make_sampler(policy)), DirectDesk)
    desk = make_desk(SlowEngine(), make_sampler(policy))
    assert isinstance(desk, BackgroundDesk)
    assert desk.collect(wait=False) == []
    desk.submit(4, SearchRequest("a", "a?", ("b",), noisy=False, top_k=1, seed=1))
    ((key, result),) = desk.collect(wait=True)
    assert (key, result.documents[0].text) == (4, "a 1")
    desk.close()
    with pytest.raises(EngineError, match="closed"):
        desk.submit(5, SearchRequest("a", "a?", ("b",), noisy=False, top_k=1, seed=1))
