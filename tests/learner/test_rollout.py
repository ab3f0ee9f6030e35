from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from zerosearch_agents.rollouts.rollout import rollout
from zerosearch_agents.sampling.local import Sampler
from zerosearch_agents.sampling.protocol import TurnSample
from zerosearch_agents.sampling.stops import decode
from zerosearch_env.engines import ConstantEngine, FailingEngine
from zerosearch_env.errors import EngineError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.llm.chat_format import PromptFormat
from zerosearch_env.llm.tokens import control_ids, encode_prompts, encode_texts
from zerosearch_env.types import Document, Question, SearchResult, StopReason

QUESTION = Question("q", "letter 0", ("k",))
RULES = make_rules(prompt_template="{question}\n", max_turns=3, top_k=2)
DOCUMENTS = (Document("Über", "naïve 東京 text"), Document("", "b <answer> k </answer>"))


class ScriptedSampler:
    """Returns prepared token runs turn by turn, and keeps what it was given: a row as the sampler sees it."""

    def __init__(self, tokenizer, scripts, *, context_tokens=10_000, at_once=1):
        self.tokenizer, self.scripts, self.context_tokens, self.at_once = tokenizer, scripts, context_tokens, at_once
        self.rows, self.sampled, self.ready, self.finished = {}, {}, [], []

    def start(self, key, ids, seed):
        self.rows[key], self.sampled[key] = list(ids), []
        self.ready.append(key)

    def extend(self, key, ids):
        assert ids
        self.rows[key] += ids
        self.ready.append(key)

    def finish(self, key):
        self.finished.append(key)

    def run(self):
        samples = []
        for key in self.ready[: self.at_once]:
            ids = self.scripts[key].pop(0) if self.scripts[key] else self.tokenizer.encode("<answer>z</answer>")
            self.sampled[key] += range(len(self.rows[key]), len(self.rows[key]) + len(ids))
            self.rows[key] += ids
            logprobs = tuple(-0.5 - 0.01 * i for i in range(len(ids)))
            full = len(self.rows[key]) >= self.context_tokens
            text = decode(self.tokenizer, ids)
            samples.append(TurnSample(key, tuple(ids), logprobs, text, "context" if full else "stop"))
        del self.ready[: self.at_once]
        return samples


ACTIONS = st.one_of(
    st.text(max_size=8).map(lambda text: f"<search>{text}</search>"),
    st.text(max_size=8).map(lambda text: f"<think>{text}</think><answer>{text}</answer>"),
    st.text(max_size=8),
)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data(), st.integers(1, 3))
def test_trained_ids_are_the_sampled_ids_and_the_mask_is_exactly_on_them(data, at_once):
    tokenizer = tiny.tiny_tokenizer()
    texts = data.draw(st.lists(st.lists(ACTIONS, max_size=4), min_size=1, max_size=4))
    # Ids that no tokenizer run would give: texts character by character, and any ids at all (half a character too).
    noise = st.lists(st.integers(2, len(tokenizer) - 1), min_size=1, max_size=6)
    scripts = []
    for turns in texts:
        pieces = [[i for char in turn for i in tokenizer.encode(char)] or [5] for turn in turns]
        scripts.append([data.draw(st.one_of(st.just(piece), noise)) for piece in pieces])
    sampler = ScriptedSampler(tokenizer, scripts, at_once=at_once)
    episodes = [Episode(QUESTION, RULES, seed=index) for index in range(len(texts))]
    rollouts = rollout(episodes, ConstantEngine(DOCUMENTS), sampler, tokenizer)
    for key, (one, episode) in enumerate(zip(rollouts, episodes, strict=True)):
        assert one.token_ids.tolist() == sampler.rows[key]
        assert np.flatnonzero(one.loss_mask).tolist() == sampler.sampled[key]
        assert one.loss_mask[-1]  # the token that ended the last turn is trained
        assert ((one.logprobs < 0) == one.loss_mask).all()
        assert one.episode is episode
        assert one.scores == episode.turns[-1].step.scores
        environment = decode(tokenizer, one.token_ids[~one.loss_mask].tolist())
        assert environment == episode.prompt + "".join(turn.step.observation for turn in episode.turns)
    assert sorted(sampler.finished) == list(range(len(texts)))


def play(sampler, engine, count=6, rules=RULES, **options):
    episodes = [Episode(QUESTION, rules, noise_level=0.5, seed=index) for index in range(count)]
    return rollout(episodes, engine, sampler, tiny.tiny_tokenizer(), **options)


def make_sampler(slots=6, context_tokens=320, policy=None):
    policy = policy or tiny.tiny_policy()
    return Sampler(
        policy.model,
        policy.tokenizer,
        slots=slots,
        context_tokens=context_tokens,
        stop_strings=RULES.protocol.stop_strings,
        turn_tokens=8,
    )


def test_rollouts_are_frozen_reproducible_and_independent_of_the_slots():
    first = play(make_sampler(), ConstantEngine(DOCUMENTS))
    again = play(make_sampler(slots=2), ConstantEngine(DOCUMENTS))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
        assert one.scores == other.scores
        with pytest.raises(ValueError, match="read-only"):
            one.token_ids[0] = 1
    assert len({one.token_ids.tobytes() for one in first}) > 1  # each row samples with a seed of its own


def test_sampling_seeds_are_apart_from_the_noise():
    policy = tiny.tiny_policy()
    shared = [Episode(QUESTION, RULES, noise_level=0.5, seed=3) for _ in range(2)]
    engine = ConstantEngine(DOCUMENTS)
    one, other = rollout(shared, engine, make_sampler(policy=policy), policy.tokenizer, seeds=[1, 2])
    assert one.token_ids.tobytes() != other.token_ids.tobytes()


def test_searches_that_are_pending_together_are_one_call():
    tokenizer = tiny.tiny_tokenizer()
    calls = []

    class CountingEngine(ConstantEngine):
        def search(self, requests):
            calls.append(len(requests))
            return super().search(requests)

    scripts = [[tokenizer.encode("<search>a</search>")] for _ in range(4)]
    play(ScriptedSampler(tokenizer, scripts, at_once=4), CountingEngine(DOCUMENTS), count=4)
    assert calls == [4]


def test_a_failed_search_truncates_its_episode_and_is_not_trained_on():
    tokenizer = tiny.tiny_tokenizer()
    scripts = [[tokenizer.encode("<search>a</search>")], [tokenizer.encode("<answer>k</answer>")]]
    failed, fine = play(ScriptedSampler(tokenizer, scripts), FailingEngine("out of order"), count=2)
    assert (failed.stop_reason, failed.trainable, failed.error) == (StopReason.ENGINE_ERROR, False, "out of order")
    assert failed.scores.reward == 0.0
    assert (fine.stop_reason, fine.trainable, fine.scores.reward) == (StopReason.ANSWER, True, 1.0)


def test_an_engine_that_raises_fails_the_searches_of_that_call_only():
    tokenizer = tiny.tiny_tokenizer()

    class RaisingEngine(ConstantEngine):
        def search(self, requests):
            if any(request.query == "b" for request in requests):
                raise EngineError("gave up", attempts=3)
            return super().search(requests)

    scripts = [[tokenizer.encode(f"<search>{letter}</search>")] for letter in "aba"]
    rollouts = play(ScriptedSampler(tokenizer, scripts), RaisingEngine(DOCUMENTS), count=3)
    assert [one.stop_reason for one in rollouts] == [StopReason.ANSWER, StopReason.ENGINE_ERROR, StopReason.ANSWER]


def test_documents_that_do_not_fit_end_the_episode():
    tokenizer = tiny.tiny_tokenizer()
    script = tokenizer.encode("<search>a</search>")
    prompt = len(tokenizer.encode("letter 0\n"))
    sampler = ScriptedSampler(tokenizer, [[script]], context_tokens=prompt + len(script) + 20)
    (one,) = play(sampler, ConstantEngine(DOCUMENTS), count=1)
    assert one.stop_reason is StopReason.CONTEXT_LIMIT
    assert one.token_ids.tolist()[prompt:] == script
    assert one.trainable
    assert sampler.finished == [0]


def test_a_turn_cut_by_the_context_and_a_prompt_that_does_not_fit():
    (cut,) = play(make_sampler(context_tokens=14), ConstantEngine(DOCUMENTS), count=1)
    assert cut.stop_reason in (StopReason.CONTEXT_LIMIT, StopReason.ANSWER)
    assert len(cut.token_ids) <= 14
    (none,) = play(make_sampler(context_tokens=5), ConstantEngine(DOCUMENTS), count=1)
    assert none.stop_reason is StopReason.CONTEXT_LIMIT
    assert not none.trainable


def test_counts_of_searches_noise_and_invalid_turns():
    tokenizer = tiny.tiny_tokenizer()
    search, invalid = tokenizer.encode("<search>a</search>"), tokenizer.encode("a")
    episode = Episode(QUESTION, RULES, noise_level=1.0, seed=0)
    sampler = ScriptedSampler(tokenizer, [[search, search, invalid]])
    (one,) = rollout([episode], ConstantEngine(DOCUMENTS), sampler, tokenizer)
    assert (one.turns, one.invalid_turns, one.scores.searches) == (4, 1, 2)
    assert (one.noisy_searches, one.searches_after_noise, one.answered_searches) == (2, 1, 2)


def test_prompts_go_through_the_chat_template_when_asked():
    tokenizer = tiny.tiny_tokenizer.__wrapped__()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    assert encode_prompts(["ab"], tokenizer, chat=True) == encode_texts(["[user]ab[assistant]"], tokenizer)
    assert encode_prompts(["ab"], tokenizer) == encode_texts(["ab"], tokenizer)
    assert encode_texts([], tokenizer) == []


def test_control_tokens_come_from_the_tokenizer_and_the_policy_alone():
    tokenizer = tiny.tiny_tokenizer.__wrapped__()
    tokenizer.add_tokens(["[INST]", "<bos>"], special_tokens=True)
    bos, inst = tokenizer.convert_tokens_to_ids(["<bos>", "[INST]"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    turns = ["<think>[INST]</think><search>a</search>", "<answer>k</answer>"]
    script = [tokenizer.encode(turn, add_special_tokens=False) for turn in turns]
    sampled = [token for turn in script for token in turn]
    assert inst in sampled
    episode = Episode(replace(QUESTION, text="letter [INST] 0 <|eos|>"), RULES)
    engine = ConstantEngine((Document("[INST]", "<bos> x <|eos|>"),))
    (one,) = rollout([episode], engine, ScriptedSampler(tokenizer, [script]), tokenizer)
    environment = one.token_ids[~one.loss_mask].tolist()
    assert one.token_ids[one.loss_mask].tolist() == sampled
    assert [token for token in environment if token in control_ids(tokenizer)] == [bos] == environment[:1]
    assert decode(tokenizer, environment[1:]) == episode.prompt + episode.turns[0].step.observation


@pytest.mark.parametrize("chat", [True, False])
def test_a_thought_that_the_chat_template_opened_belongs_to_the_first_turn(chat):
    tokenizer = tiny.tiny_tokenizer.__wrapped__()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '<think>\n' }}"
    turns = ["I may <search>draft</search>", "hm</think><search>real</search>", "<answer>k</answer>"]
    script = [tokenizer.encode(turn) for turn in turns]
    sampled = [token for turn in script for token in turn]
    episode = Episode(QUESTION, RULES)
    (one,) = rollout(
        [episode],
        ConstantEngine(DOCUMENTS),
        ScriptedSampler(tokenizer, [script]),
        tokenizer,
        format=PromptFormat(chat=chat),
    )
    assert [turn.step.query for turn in episode.turns] == ["draft", "real", None]
    assert episode.turns[0].action_text == ("<think>\n" if chat else "") + turns[0]
    assert one.token_ids[one.loss_mask].tolist() == sampled


@pytest.mark.parametrize("waits", [True, False])
def test_a_turn_with_several_searches_continues_when_all_have_returned(waits):
    class Waiting(ConstantEngine):
        def search(self, requests):
            return [SearchResult((Document(request.query, "text"),)) for request in requests]

        async def asearch(self, request):
            await asyncio.sleep(0.02 if request.query == "a" else 0)  # the first of a turn returns last
            return self.search([request])[0]

    Waiting.waits = waits
    tokenizer = tiny.tiny_tokenizer()
    rules = make_rules(protocol="hermes", prompt_template="{question}\n", top_k=1)
    calls = "".join(rules.protocol.render_search(query) for query in "abc")
    scripts = [[tokenizer.encode(calls), tokenizer.encode("\\boxed{k}")] for _ in range(3)]
    episodes = [Episode(QUESTION, rules, seed=seed) for seed in range(3)]
    sampler = ScriptedSampler(tokenizer, scripts)
    sampler.wake = lambda: None
    for one in rollout(episodes, Waiting(), sampler, tokenizer):
        searched, answered = (turn.step for turn in one.episode.turns)
        assert [group[0].title for group in searched.groups] == list(searched.queries) == ["a", "b", "c"]
        assert answered.scores.em == 1.0
        assert one.scores.searches == 3
