"""vLLM servers as the sampler, against a server that speaks the same JSON over a real tiny model."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from fake_vllm import FakeVLLM

from zerosearch_agents.config.train import AlgorithmConfig, RolloutConfig, TrainConfig
from zerosearch_agents.config.vllm import VLLMConfig, parse_sampler
from zerosearch_agents.processes.workers import Workers, start_workers
from zerosearch_agents.rollouts.rollout import rollout
from zerosearch_agents.runs.output import config_differences
from zerosearch_agents.sampling.engine import EngineSampler, TurnLimits, TurnReply
from zerosearch_agents.sampling.protocol import TurnSampler
from zerosearch_agents.sampling.vllm import server as vllm_server
from zerosearch_agents.sampling.vllm import sync as vllm_sync
from zerosearch_agents.sampling.vllm.server import VLLMServers, parse_completion
from zerosearch_agents.sampling.vllm.sync import FolderSync
from zerosearch_agents.sampling.vllm.weights import named_weights, write_weights
from zerosearch_agents.training.trainer import build_learner, train, train_step
from zerosearch_env.engines import ConstantEngine
from zerosearch_env.errors import ConfigError, EngineError, TrainingError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import make_rules
from zerosearch_env.types import Question

STOPS = ("</search>", "</answer>")
LIMITS = TurnLimits(STOPS, (), 1.0)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """What a server refuses is sent again at once."""
    monkeypatch.setattr(vllm_server, "HttpOptions", partial(vllm_server.HttpOptions, backoff_s=0.01))


def make(servers, policy, folder, limits=LIMITS, context_tokens=60, turn_tokens=8):
    urls = [server.root for server in servers]
    sync = lambda name, loop: FolderSync(policy.model, folder / name)  # noqa: E731
    engine = VLLMServers(urls, limits, sync=sync, concurrency=8, timeout_s=100.0)
    size = policy.model.get_input_embeddings().weight.shape[0]
    return EngineSampler(engine, policy.tokenizer, size, limits, context_tokens=context_tokens, turn_tokens=turn_tokens)


def turns(sampler, prompts, count=None):
    for key, prompt in enumerate(prompts):
        sampler.start(key, prompt, seed=key)
    found = {}
    while len(found) < len(prompts):
        found |= {sample.key: sample for sample in sampler.run(count or len(prompts))}
    for key in range(len(prompts)):
        sampler.finish(key)
    return [found[key] for key in range(len(prompts))]


def own_logprobs(model, prompt, ids, temperature=1.0):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)].numpy()


@pytest.fixture
def prompts():
    tokenizer = tiny.tiny_tokenizer()
    return [tokenizer.encode(f"letter {number}\n") for number in range(5)]


def test_a_server_is_a_turn_sampler_and_its_tokens_have_the_learners_logprobs(tmp_path, prompts):
    policy = tiny.tiny_policy()
    limits = replace(LIMITS, temperature=0.7)
    with FakeVLLM(policy) as server, closing(make([server], policy, tmp_path, limits)) as sampler:
        assert isinstance(sampler, TurnSampler)
        samples = turns(sampler, prompts)
        again = turns(sampler, prompts)
        assert [sample.token_ids for sample in samples] == [sample.token_ids for sample in again]
    for prompt, sample in zip(prompts, samples, strict=True):
        own = own_logprobs(policy.model, prompt, sample.token_ids, 0.7)
        np.testing.assert_allclose(sample.logprobs, own, atol=1e-5)
        assert sample.finish in ("stop", "length")
        assert (sample.finish == "stop") == any(stop in sample.text for stop in STOPS)
    assert len({sample.token_ids for sample in samples}) > 1
    body = server.bodies[0]
    assert (body["include_stop_str_in_output"], body["skip_special_tokens"]) == (True, False)
    assert (body["top_p"], body["top_k"], body["max_tokens"], body["stop"]) == (1.0, 0, 8, list(STOPS))


def test_tokens_behind_the_end_of_a_turn_are_cut(tmp_path, prompts):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as plain, FakeVLLM(policy, beyond=3) as fast:
        with closing(make([plain], policy, tmp_path)) as sampler:
            want = turns(sampler, prompts)
        with closing(make([fast], policy, tmp_path)) as sampler:
            assert turns(sampler, prompts) == want
    assert any(sample.finish == "stop" for sample in want)


class Replies:
    """An engine that answers with prepared replies."""

    def __init__(self, *replies):
        self.replies, self.numbers, self.requests = list(replies), [], []

    def submit(self, number, request):
        self.numbers.append(number)
        self.requests.append(request)

    def wait(self):
        return [(self.numbers.pop(0), self.replies.pop(0))]


def scripted(*replies, **options):
    tokenizer = tiny.tiny_tokenizer()
    settings = {"context_tokens": 40, "turn_tokens": 8} | options
    limits = TurnLimits(STOPS, (7,), 1.0)
    return EngineSampler(Replies(*replies), tokenizer, len(tokenizer), limits, **settings)


def reply(ids, stopped=True):
    return TurnReply(tuple(ids), (-1.0,) * len(ids), stopped)


def test_ends_of_turns():
    ids = tiny.tiny_tokenizer().encode
    stop, word = ids("</search>"), ids("k")
    sampler = scripted(
        reply([*word, *stop]),
        reply([*word, 7]),
        reply(word * 8, stopped=False),
        reply(word * 3),
        reply(word * 6, False),
    )
    ends = []
    for key, size in enumerate((4, 4, 4, 4, 34)):
        sampler.start(key, word * size, 0)
        (sample,) = sampler.run()
        ends.append((sample.finish, len(sample.token_ids), sample.text))
    assert [end[0] for end in ends] == ["stop", "eos", "length", "stop", "context"]
    assert ends[0][2] == "k</search>"
    assert ends[1][1:] == (2, "k")  # the end token is trained, and is no text
    sampler.start("full", word * 40, 0)
    assert [(one.finish, one.token_ids) for one in sampler.run()] == [("context", ())]


def test_the_seed_is_that_of_the_position():
    word = tiny.tiny_tokenizer().encode("k")
    sampler = scripted(*[reply(word)] * 3)
    sampler.start(0, word, 5)
    sampler.run()
    sampler.extend(0, word)
    sampler.start(1, word * 3, 5)
    sampler.run(2)
    first, second, third = sampler.engine.requests
    assert second.prompt_ids == third.prompt_ids == tuple(word * 3)
    assert first.seed != second.seed == third.seed


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (TurnReply((1, 2), (-1.0,), True), "one log-probability each"),
        (TurnReply((), (), True), "1 to 8 token ids"),
        (TurnReply((10**6,), (-1.0,), True), "token ids below"),
        (TurnReply((1,), (float("nan"),), True), "nan"),
        (TurnReply((1,), (-1.0,), False), "shorter than context_tokens"),
    ],
)
def test_a_reply_that_cannot_be_trained_on_ends_the_run(bad, message):
    sampler = scripted(bad)
    sampler.start(0, [1], 0)
    with pytest.raises(TrainingError, match=message):
        sampler.run()


def test_answers_of_other_servers_are_refused():
    for data in (
        {},
        {"choices": [{"text": "a"}]},
        {"choices": [{"token_ids": ["a"]}]},
        {"choices": [{"token_ids": [1]}]},
    ):
        with pytest.raises(ValueError, match="expected"):
            parse_completion(data)
    good = {"token_ids": [1], "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "abort"}
    with pytest.raises(ValueError, match="abort"):
        parse_completion({"choices": [good]})
    with pytest.raises(ValueError, match="log-probability"):
        parse_completion({"choices": [good | {"logprobs": {"token_logprobs": [None]}, "finish_reason": "stop"}]})


def test_rows_keep_their_server_and_another_one_takes_over(tmp_path, prompts):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as one, FakeVLLM(policy) as other:
        with closing(make([one], policy, tmp_path)) as sampler:
            want = turns(sampler, prompts)
        one.bodies.clear()
        with closing(make([one, other], policy, tmp_path)) as sampler:
            assert turns(sampler, prompts) == want
            assert (len(one.bodies), len(other.bodies)) == (3, 2)
            other.fail = 503
            assert turns(sampler, prompts) == want
            one.fail = 400
            with pytest.raises(TrainingError, match="broken"):
                turns(sampler, prompts)


def test_weights_go_through_a_new_folder_each_time_and_caches_are_emptied(tmp_path, prompts):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as one, FakeVLLM(policy, extension=False) as other:
        with closing(make([one, other], policy, tmp_path)) as sampler:
            for _ in range(3):
                with torch.no_grad():
                    policy.model.get_output_embeddings().weight.mul_(1.1)
                sampler.refresh()
            samples = turns(sampler, prompts)
            sampler.before_training()
            assert len(set(one.loaded)) == 3
            assert len(list(tmp_path.glob("*/weights-*"))) == 2
        assert not list(tmp_path.glob("*"))
    assert [sample.weight_version for sample in samples] == [3] * 5
    for prompt, sample in zip(prompts, samples, strict=True):
        np.testing.assert_allclose(sample.logprobs, own_logprobs(policy.model, prompt, sample.token_ids), atol=1e-5)
    order = [path for path in one.paths if path != "/v1/completions"]
    load = ["/pause?mode=abort", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume"]
    assert order == ["/resume", *load * 3, "/weight_info"]


def test_a_server_whose_cache_cannot_be_emptied_samples_with_old_results(tmp_path):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as server, closing(make([server], policy, tmp_path)) as sampler:
        server.held = True
        with pytest.raises(TrainingError, match="could not empty its prefix cache"):
            sampler.refresh()
        assert not server.paused
        server.held = False
        sampler.refresh()
        assert server.version.endswith("-1-1")


def test_a_server_that_cannot_load_is_left_out_and_one_that_was_restarted_is_found_out(tmp_path, prompts, caplog):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as one, FakeVLLM(policy) as other, closing(make([one, other], policy, tmp_path)) as sampler:
        sampler.refresh()
        one.rpc = lambda body: __import__("zerosearch_benchmarks.speed.chat_server").chat_server.Reply({}, 500)
        with caplog.at_level(logging.WARNING):
            sampler.refresh()
        assert "is not used until the next weight update" in caplog.text
        one.bodies.clear()
        turns(sampler, prompts)
        assert not one.bodies
        sampler.before_training()
        other.restart()
        with pytest.raises(TrainingError, match="restarted"):
            sampler.before_training()
        other.rpc = one.rpc
        with pytest.raises(TrainingError, match="VLLM_SERVER_DEV_MODE"):
            sampler.refresh()


def test_a_server_left_paused_is_woken_and_one_without_the_routes_refused(tmp_path, prompts, caplog):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as one, FakeVLLM(policy) as other:
        one.paused = True  # by a learner that was killed
        with closing(make([one], policy, tmp_path)) as sampler:
            assert len(turns(sampler, prompts)) == 5
        one.routes = False
        with pytest.raises(EngineError, match="VLLM_SERVER_DEV_MODE"):
            make([other, one], policy, tmp_path)
    with FakeVLLM(policy) as live, caplog.at_level(logging.WARNING), closing(make([live, other], policy, tmp_path)):
        assert "does not answer" in caplog.text


def test_broadcasts_need_a_gpu_and_an_address_of_this_machine(tmp_path):
    with FakeVLLM(tiny.tiny_policy()) as server, pytest.raises(ConfigError, match="folder"):
        build_learner(config_for(tmp_path, server, sync="nccl"), Workers())
    assert vllm_sync.address_towards("http://127.0.0.1:8000") == "127.0.0.1"
    assert 0 < vllm_sync.free_port("127.0.0.1") < 65536
    with pytest.raises(EngineError, match="sync_address"):
        vllm_sync.address_towards("http://no-such-host.invalid:8000")
    with pytest.raises(EngineError, match="not an address of this machine"):
        vllm_sync.free_port("192.0.2.1")


@pytest.mark.parametrize("answered", [False, True])
def test_turns_in_progress_begin_anew_with_new_weights(tmp_path, prompts, answered):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as server, closing(make([server], policy, tmp_path)) as sampler:
        sampler.start(0, prompts[0], 0)
        deadline = time.monotonic() + 30
        while answered and sampler.engine._replies.empty() and time.monotonic() < deadline:
            time.sleep(0.01)  # then what is cancelled has been answered already
        with torch.no_grad():
            policy.model.get_output_embeddings().weight.mul_(2.0)
        sampler.refresh()
        (sample,) = sampler.run()
        assert sample.weight_version == 1
        own = own_logprobs(policy.model, prompts[0], sample.token_ids)
        np.testing.assert_allclose(sample.logprobs, own, atol=1e-5)


def test_wake_ends_a_wait(tmp_path):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as server, closing(make([server], policy, tmp_path)) as sampler:
        sampler.start(0, [1, 2], 0)
        sampler.wake()
        found = sampler.run()
        assert len(found or sampler.run()) == 1


def test_weights_are_written_in_shards_and_a_tied_head_once(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from zerosearch_agents.policy.policy import new_model, tiny_config
    from zerosearch_agents.sampling.vllm import weights as vllm_weights

    model = new_model(tiny_config(64, hidden=16, layers=2, heads=2, mlp=16))
    names = [name for name, _ in named_weights(model)]
    assert "lm_head.weight" not in names
    monkeypatch.setattr(vllm_weights, "SHARD_BYTES", 4096)
    path = write_weights(model, tmp_path, 0)
    files = sorted(path.glob("*.safetensors"))
    assert len(files) > 1
    read = {name: value for file in files for name, value in load_file(file).items()}
    assert sorted(read) == sorted(names)
    for name, value in named_weights(model):
        assert torch.equal(read[name], value)
    with pytest.raises(TrainingError, match="cannot be written"):
        write_weights(model, Path("/dev/null/x"), 0)


def config_for(folder, *servers, **options):
    urls = ",".join(server.root for server in servers)
    settings = RolloutConfig(prompts=2, group_size=3, slots=16, sampler=f"vllm:{urls}")
    # With a KL every rollout is trained on, whatever the rewards are.
    algorithm = AlgorithmConfig(kl_coefficient=0.1)
    return tiny.tiny_train_config(
        folder, rollout=settings, algorithm=algorithm, vllm=VLLMConfig(timeout_s=100.0, **options)
    )


@pytest.mark.slow
def test_training_with_servers(tmp_path):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy) as one, FakeVLLM(policy) as other:
        result = train(replace(config_for(tmp_path, one, other), steps=2), dataset=tiny.tiny_dataset())
        assert result.step == 2
        from zerosearch_agents.runs.metrics import read_metrics

        metrics = read_metrics(result.output / "metrics.jsonl")
        assert all(record["mismatch_kl"] < 1e-8 for record in metrics)
        assert metrics[-1]["updates"] > 0
        # trial, back, two steps
        assert len(one.loaded) == len(other.loaded) == 4
        again = train(replace(config_for(tmp_path, other), steps=2), dataset=tiny.tiny_dataset(), resume=True)
        assert again.step == 2
        assert not list((result.output / "sync").glob("*"))


def test_rollouts_carry_the_versions_of_their_turns(tmp_path):
    policy = tiny.tiny_policy()
    rules = make_rules(prompt_template="{question}\n", max_turns=3, top_k=2)
    with FakeVLLM(policy) as server, closing(make([server], policy, tmp_path, context_tokens=320)) as sampler:
        sampler.refresh(7)
        episodes = [Episode(Question("q", "letter 0", ("k",)), rules, seed=seed) for seed in range(4)]
        for one in rollout(episodes, ConstantEngine(), sampler, policy.tokenizer):
            assert set(one.weight_versions) == {7}
            assert len(one.weight_versions) <= one.turns  # a turn that the context ends may hold no token


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"stale_head": True, "extension": False}, {"raw": True}])
def test_an_engine_that_computes_something_else_is_refused_at_the_start(tmp_path, fault):
    policy = tiny.tiny_policy()
    with FakeVLLM(policy, **fault) as server:
        config = config_for(tmp_path, server)
        if "raw" in fault:
            config = replace(config, rollout=replace(config.rollout, temperature=0.5))
        with pytest.raises(TrainingError, match=r"differ from the learner's by [\d.]+ on average") as error:
            build_learner(config, Workers(), tiny.tiny_dataset())
    assert ("after a trial change" in str(error.value)) == ("stale_head" in fault)


@pytest.mark.slow
def test_a_server_with_the_weights_of_an_earlier_run_is_given_the_right_ones(tmp_path):
    policy = tiny.tiny_policy()
    with FakeVLLM(tiny.tiny_policy(seed=5)) as server:
        before = {name: value.clone() for name, value in named_weights(policy.model)}
        learner = build_learner(config_for(tmp_path, server), Workers(), tiny.tiny_dataset())
        with closing(learner.sampler):
            for name, value in named_weights(learner.policy.model):
                assert torch.equal(value, before[name])  # the trial has left no trace
            metrics, groups = train_step(learner, 0)
            assert metrics["mismatch_kl"] < 1e-8
            assert {version for group in groups for one in group for version in one.weight_versions} == {0}


def _two_steps(workers, config):
    learner = build_learner(config, workers, tiny.tiny_dataset())
    with closing(learner.sampler):
        return [train_step(learner, step)[0]["reward"] for step in range(2)]


@pytest.mark.slow
def test_several_workers_share_servers(tmp_path):
    with FakeVLLM(tiny.tiny_policy()) as server:
        config = config_for(tmp_path, server)
        with start_workers(2, _two_steps, config) as workers:
            together = _two_steps(workers, config)
        assert together == pytest.approx(_two_steps(Workers(), config))


def test_choices_of_samplers():
    assert parse_sampler("vllm:http://a:1/v1,http://b:2").urls == ("http://a:1", "http://b:2")
    assert parse_sampler("vllm") == parse_sampler("vllm")
    for wrong in ("", "hf", "vllm:", "vllm:tiny", "local:x"):
        with pytest.raises(ConfigError):
            TrainConfig(rollout=RolloutConfig(sampler=wrong))
    here, there = (TrainConfig(rollout=RolloutConfig(sampler=f"vllm:http://{name}:1")) for name in "ab")
    assert not config_differences(here, there)
    assert config_differences(here, TrainConfig()) == ["rollout.sampler: 'vllm' -> 'local'"]
    with pytest.raises(ConfigError, match=r"vllm\.gpu_memory"):
        TrainConfig(vllm=VLLMConfig(gpu_memory=1.5))
