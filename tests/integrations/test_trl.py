"""TRL's `GRPOTrainer` on the episodes of this package, both ways. Last run with TRL 1.16.0 and Transformers 5.23.0.

It is one file, as `make test-trl` runs the file of a framework.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest
import torch
from chat_templates import family_tokenizer
from env_fakes import EchoEngine
from tiny import tiny_dataset, tiny_policy

from zerosearch_env import ConstantEngine, EpisodeError, SearchResult, SessionSource
from zerosearch_env.errors import ConfigError, EngineError, MissingExtraError
from zerosearch_env.protocols.documents import render_plain

pytest.importorskip("trl", reason="trl is not installed (extra trl)")
pytestmark = pytest.mark.filterwarnings("ignore")  # what TRL and its libraries warn of is not ours

from transformers.utils import get_json_schema  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from zerosearch_agents.integrations.trl import RolloutFunc, check_trainer, zerosearch_reward  # noqa: E402
from zerosearch_agents.sampling.local import Sampler  # noqa: E402
from zerosearch_env.integrations.tool_texts import ANSWER, SEARCH  # noqa: E402
from zerosearch_env.integrations.trl import (  # noqa: E402
    ROW,
    TOOL_PROMPT,
    ZeroSearchTools,
    make_dataset,
    make_environment_factory,
)

OPTIONS: dict[str, Any] = {"dataset": tiny_dataset(), "prompt_template": "{question}\n", "max_turns": 2, "top_k": 2}


def make_source(**options: Any) -> SessionSource:
    return SessionSource(**{**OPTIONS, "noise_level": 0.5, **options})


class Recorder(GRPOTrainer):
    """Keeps what the loss is computed from."""

    batches: list[dict[str, torch.Tensor]]

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.batches = [*getattr(self, "batches", []), inputs]
        return super()._compute_loss(model, inputs)


def make_trainer(
    folder: Path, source: SessionSource, function: Callable[..., Any] | None = None, **changes: Any
) -> Recorder:
    """A trainer of a random model that writes tags; its learning rate is 0, so that every step sees the same model."""
    policy = tiny_policy()
    settings = {
        "max_steps": 1, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 400,
        "learning_rate": 0.0, "beta": 0.0, "bf16": False, "gradient_checkpointing": False, "report_to": [],
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "seed": 3, "use_cpu": True,
    }  # fmt: skip
    return Recorder(
        changes.pop("model", policy.model),
        reward_funcs=changes.pop("reward_funcs", zerosearch_reward),
        rollout_func=function or RolloutFunc(source, turn_tokens=8),
        train_dataset=changes.pop("train_dataset", make_dataset(source)),
        processing_class=policy.tokenizer,
        args=GRPOConfig(output_dir=str(folder), **{**settings, **changes}),
    )


def segments(ids: Sequence[int], mask: Sequence[int], tokenizer: Any) -> list[tuple[int, str]]:
    """(sampled, text) of each run of tokens with the same mask."""
    runs: list[tuple[int, list[int]]] = []
    for token, sampled in zip(ids, mask, strict=True):
        if not runs or runs[-1][0] != sampled:
            runs.append((sampled, []))
        runs[-1][1].append(token)
    return [(sampled, tokenizer.decode(run)) for sampled, run in runs]


class Failing(ConstantEngine):
    """Fails for the questions that contain one of these texts."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = texts

    def search(self, requests: Sequence[Any]) -> list[SearchResult]:
        return [
            SearchResult((), failure="it is down") if any(text in request.question for text in self.texts) else result
            for request, result in zip(requests, super().search(requests), strict=True)
        ]


def test_rollout_func_plays_the_episodes_of_the_environment(tmp_path: Path) -> None:
    """The tokens of TRL, decoded, are the texts of `gym.make` for the same seed; so are the noise and the reward."""
    env = gym.make("zerosearch_env:ZeroSearch-v0", **OPTIONS, noise_level=0.5)
    source = make_source()
    trainer = make_trainer(tmp_path, source)
    table = source.rows()
    prompts, seeds = [], range(30)
    for seed in seeds:
        env.reset(seed=seed)
        episode = env.unwrapped.episode  # type: ignore[attr-defined]
        index = [question.id for question in source.dataset.questions].index(episode.question.id)
        row = {**table[index], "seed": episode.seed}
        prompts.append([{"role": "user", "content": episode.prompt, ROW: row}])
    output = trainer.rollout_func(prompts, trainer)
    tokenizer, searched = trainer.processing_class, 0
    for number, seed in enumerate(seeds):
        observation, info = env.reset(seed=seed)
        assert tokenizer.decode(output["prompt_ids"][number]) == observation
        noisy, ended, reward = 0, False, 0.0
        runs = segments(output["completion_ids"][number], output["env_mask"][number], tokenizer)
        for sampled, text in runs:
            if ended:
                assert (sampled, text) == (0, tokenizer.eos_token)
            elif sampled:
                observation, reward, terminated, truncated, info = env.step(text)
                noisy += info["noisy"] is True
                searched += info["action"] == "search"
                ended = terminated or truncated
            else:
                assert text == observation
        assert ended
        assert output["noisy_searches"][number] == noisy
        assert output["episode_reward"][number] == reward
        assert output["stop_reason"][number] == info["stop_reason"]
    assert searched > 5
    assert 0 < sum(output["noisy_searches"]) < searched


def test_trained_tokens_are_the_sampled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[Any] = []
    run = Sampler.run
    monkeypatch.setattr(Sampler, "run", lambda self, *a: [turns.append(turn) or turn for turn in run(self, *a)])
    trainer = make_trainer(tmp_path, make_source(), temperature=0.7)
    trainer.train()
    (batch,) = trainer.batches
    rows = zip(batch["completion_ids"], batch["completion_mask"] * batch["tool_mask"], strict=True)
    trained = [ids[mask.bool()].tolist() for ids, mask in rows]
    sampled: list[list[int]] = [[] for _ in trained]
    for turn in turns:
        sampled[turn.key] += turn.token_ids
    assert sorted(trained) == sorted(sampled)  # TRL shuffles the samples of a batch
    assert sum(map(len, trained)) > 30


def test_logprobs_are_the_models_at_the_temperature_of_the_trainer(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_source(), temperature=0.7)
    trainer.model.train()
    output = trainer.rollout_func([row["prompt"] for row in trainer.train_dataset], trainer)
    for prompt, ids, mask, logprobs in zip(
        *(output[name] for name in ("prompt_ids", "completion_ids", "env_mask", "logprobs")), strict=True
    ):
        row = torch.tensor([prompt + ids])
        logits = trainer.model(input_ids=row).logits[0, :-1] / 0.7
        expected = logits.log_softmax(-1).gather(1, row[0, 1:, None])[len(prompt) - 1 :, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected * torch.tensor(mask), atol=2e-4, rtol=0)
    assert trainer.model.training


@pytest.mark.parametrize("appended", [True, False])
def test_finished_episodes_train_although_truncated_ones_are_masked(tmp_path: Path, appended: bool) -> None:
    """Without the end token that is appended, TRL takes every completion for truncated and trains nothing."""
    source = make_source(noise_level=0.0)

    def without_end(prompts: Any, trainer: Any) -> Any:
        output = RolloutFunc(source, turn_tokens=8)(prompts, trainer)
        for name in ("completion_ids", "env_mask", "logprobs"):
            output[name] = [values[:-1] for values in output[name]]
        return output

    figures = {}
    for masking in (False, True):
        function = None if appended else without_end
        trainer = make_trainer(tmp_path, source, function, mask_truncated_completions=masking)
        trainer.train()
        (batch,) = trainer.batches
        logged = trainer.state.log_history[0]
        trained = int((batch["completion_mask"] * batch["tool_mask"]).sum())
        figures[masking] = trained, logged["grad_norm"], logged["completions/clipped_ratio"]
    plain, masked = figures[False], figures[True]
    assert plain[0] > 30
    assert plain[1] > 0
    if appended:
        assert masked == pytest.approx(plain)
        assert masked[2] == 0
    else:
        assert masked == pytest.approx((0, 0, 1))
        assert plain[2] == 1


def test_a_spent_token_budget_is_a_truncated_completion(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_source(), max_completion_length=40)
    output = trainer.rollout_func([row["prompt"] for row in trainer.train_dataset] * 2, trainer)
    ends = {trainer.processing_class.eos_token_id, trainer.processing_class.pad_token_id}
    longest = max(map(len, output["prompt_ids"]))
    reasons = set()
    for prompt, ids, reason, reward in zip(
        *(output[name] for name in ("prompt_ids", "completion_ids", "stop_reason", "episode_reward")), strict=True
    ):
        reasons.add(reason)
        assert (ids[-1] in ends) is (reason != "context_limit")
        assert len(ids) <= 40 + longest - len(prompt) + 1  # the end token is one more
        assert reason != "context_limit" or reward == 0
    assert reasons >= {"context_limit", "answer"}


def test_failed_searches_leave_the_sample_out(tmp_path: Path) -> None:
    source = make_source(search_engine=Failing("letter 0", "letter 1", "letter 2", "letter 3"), noise_level=0.0)
    trainer = make_trainer(tmp_path, source)
    output = trainer.rollout_func([row["prompt"] for row in trainer.train_dataset] * 2, trainer)
    failed = [reason == "engine_error" for reason in output["stop_reason"]]
    assert 0 < sum(failed) < len(failed)
    for left_out, reward, mask in zip(failed, output["episode_reward"], output["env_mask"], strict=True):
        assert (reward is None) is left_out
        assert any(mask) is not left_out
    assert zerosearch_reward(episode_reward=output["episode_reward"]) == output["episode_reward"]


def test_a_batch_with_failures_is_trained_without_them(tmp_path: Path) -> None:
    source = make_source(search_engine=Failing("letter 0"), noise_level=0.0)
    rows = make_dataset(source, count=2)
    trainer = make_trainer(tmp_path, source, train_dataset=rows)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert 0 < logged["zerosearch/left_out"] < 1
    assert logged["reward"] == logged["reward"]  # a number, although some rewards are missing
    (batch,) = trainer.batches
    trained = (batch["completion_mask"] * batch["tool_mask"]).sum(1)
    assert int((trained == 0).sum()) == round(logged["zerosearch/left_out"] * 8)
    assert not batch["advantages"][trained == 0].any()


def test_an_engine_that_answers_nothing_ends_the_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_source(search_engine=Failing("letter")))
    prompts = [row["prompt"] for row in trainer.train_dataset][:1]

    def play() -> None:
        for _ in range(20):  # until the only episode of a batch begins with a search
            trainer.rollout_func(prompts, trainer)

    with pytest.raises(EngineError, match="every search of this batch failed; the first: it is down"):
        play()


def test_sampling_is_seeded_by_the_step(tmp_path: Path) -> None:
    source = make_source()
    trainer = make_trainer(tmp_path, source)
    prompts = [row["prompt"] for row in trainer.train_dataset]

    def ids(function: RolloutFunc) -> list[list[int]]:
        return function(prompts, trainer)["completion_ids"]

    first = RolloutFunc(source, turn_tokens=8)
    one, two = ids(first), ids(first)
    assert one != two
    resumed = RolloutFunc(source, turn_tokens=8)
    assert ids(resumed) == one
    trainer.state.global_step = 1
    assert ids(resumed) not in (one, two)


def test_the_sampler_follows_the_weights(tmp_path: Path) -> None:
    source = make_source()
    trainer = make_trainer(tmp_path, source, learning_rate=0.05, max_steps=2)
    trainer.train()
    prompts = [row["prompt"] for row in trainer.train_dataset]
    state = copy.deepcopy(trainer.state)
    used = trainer.rollout_func(prompts, trainer)
    trainer.state = state
    fresh = RolloutFunc(source, turn_tokens=8)
    fresh._step, fresh._calls = state.global_step, trainer.rollout_func._calls - 1
    assert fresh(prompts, trainer) == used


@pytest.mark.slow
def test_adapters_of_peft_are_sampled_and_trained(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    source = make_source()
    model = peft.get_peft_model(tiny_policy().model, peft.LoraConfig(r=4, target_modules="all-linear"))
    trainer = make_trainer(tmp_path, source, model=model, learning_rate=0.05, max_steps=2)
    trainer.train()
    output = trainer.rollout_func([row["prompt"] for row in trainer.train_dataset], trainer)
    row = torch.tensor([output["prompt_ids"][0] + output["completion_ids"][0]])
    start = len(output["prompt_ids"][0])
    logprobs = trainer.model.eval()(input_ids=row).logits[0, start - 1 : -1].log_softmax(-1)
    expected = logprobs.gather(1, row[0, start:, None])[:, 0] * torch.tensor(output["env_mask"][0])
    torch.testing.assert_close(torch.tensor(output["logprobs"][0]), expected, atol=2e-4, rtol=0)


def test_progress_comes_from_the_trainer(tmp_path: Path) -> None:
    """A schedule with its progress from outside: at step 1 of 2 the linear noise level is half way."""
    levels: list[float] = []
    source = SessionSource(
        **OPTIONS,
        noise_schedule="linear",
        noise_start=0.0,
        noise_end=1.0,
        progress=lambda: trainer.state.global_step / trainer.state.max_steps,
    )
    function = RolloutFunc(source, turn_tokens=8)
    start = source.start_row
    source.start_row = lambda row: levels.append((session := start(row)).episode.noise_level) or session  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path, source, function, max_steps=2)
    trainer.train()
    assert levels == [0.0] * 8 + [0.5] * 8


def test_rollout_func_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    source = make_source()
    trainer = make_trainer(tmp_path, source)
    function, rows = trainer.rollout_func, source.rows()
    with pytest.raises(ConfigError, match=r"does not name its row.*make_dataset"):
        function([rows[0]["prompt"]], trainer)
    with pytest.raises(ConfigError, match="does not name its row"):
        function(["letter 0"], trainer)
    other = make_dataset(make_source(prompt_template="Who? {question}\n"))
    with pytest.raises(ConfigError, match=r"'Who\? letter 0\\n'.*the episode's is.*'letter 0\\n'"):
        function([other[0]["prompt"]], trainer)
    long = make_source(prompt_template="{question} " + "x " * 600)
    with pytest.raises(ConfigError, match=r"a prompt has \d+ tokens, and the model's context is 512"):
        RolloutFunc(long)([make_dataset(long)[0]["prompt"]], trainer)
    trainer.max_completion_length = None
    assert len(RolloutFunc(source, turn_tokens=8)([trainer.train_dataset[0]["prompt"]], trainer)["logprobs"]) == 1
    trainer.model.config.max_position_embeddings = 0
    with pytest.raises(ConfigError, match="max_completion_length=None, and the model names no context"):
        RolloutFunc(source)([trainer.train_dataset[0]["prompt"]], trainer)
    with pytest.raises(ConfigError, match="turn_tokens"):
        RolloutFunc(source, turn_tokens=0)
    with pytest.raises(ConfigError, match="rollout_func=RolloutFunc"):
        zerosearch_reward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_p": 0.9}, r"top_p=0\.9: .* Set top_p=1\.0"),
        ({"top_k": 20}, "top_k=20: .* Set top_k=0"),
        ({"min_p": 0.1}, "min_p=0.1: .* Set min_p=None"),
        ({"repetition_penalty": 1.1}, r"repetition_penalty=1\.1"),
        ({"temperature": 0.0}, "Set it above 0"),
        ({"use_vllm": True}, r"use_vllm=False, or let TRL sample with environment_factory"),
        ({"is_fsdp_enabled": True}, "FSDP and DeepSpeed ZeRO-3 shard"),
        ({"zero_stage": 3}, "FSDP and DeepSpeed ZeRO-3 shard"),
    ],
)
def test_arguments_that_change_sampling_are_refused(changes: dict[str, Any], message: str) -> None:
    plain = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "temperature": 1.0, "use_vllm": False}
    values = {**plain, "is_fsdp_enabled": False, **changes}
    plugin = SimpleNamespace(zero_stage=values.pop("zero_stage", 2))
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    with pytest.raises(ConfigError, match=message):
        check_trainer(SimpleNamespace(**values, accelerator=accelerator))  # type: ignore[arg-type]
    accelerator = SimpleNamespace(state=SimpleNamespace())
    check_trainer(SimpleNamespace(**plain, is_fsdp_enabled=False, accelerator=accelerator))  # type: ignore[arg-type]


# --- environment_factory


def start_tools(source: SessionSource, index: int = 0) -> ZeroSearchTools:
    tools = ZeroSearchTools(source)
    assert tools.reset(**make_dataset(source)[index]) is None
    return tools


def test_the_tools_play_the_episodes_of_the_environment() -> None:
    options = {**OPTIONS, "search_engine": EchoEngine(), "noise_level": 0.5, "max_turns": 3}
    env = gym.make("zerosearch_env:ZeroSearch-v0", **options)
    source = SessionSource(**options)
    flags = []
    for seed in range(8):
        env.reset(seed=seed)
        episode = env.unwrapped.episode  # type: ignore[attr-defined]
        index = [question.id for question in source.dataset.questions].index(episode.question.id)
        tools = ZeroSearchTools(source)
        tools.reset(**{**source.rows()[index], "seed": episode.seed})
        for query in ("one thing", "another"):
            *_, info = env.step(f"<search>{query}</search>")
            assert tools.search(query) == render_plain(info["documents"])
            flags.append(info["noisy"])
        _, reward, *_ = env.step("<answer>k</answer>")
        assert "recorded" in tools.answer("k")
        assert tools.get_reward() == reward
        assert tools._started.episode.turns == env.unwrapped.episode.turns  # type: ignore[attr-defined]
    assert len(set(flags)) == 2


def test_the_tools_have_the_descriptions_of_the_other_frameworks() -> None:
    for tool, method in ((SEARCH, ZeroSearchTools.search), (ANSWER, ZeroSearchTools.answer)):
        function = get_json_schema(method)["function"]
        assert (function["name"], function["description"]) == (tool.name, tool.does)
        assert function["parameters"] == tool.parameters


def test_what_a_model_does_wrong_is_answered_with_a_message() -> None:
    source = make_source(search_engine=ConstantEngine())
    tools = start_tools(source)
    with pytest.raises(EpisodeError, match="The query is empty, which uses up a turn"):
        tools.search("  ")
    assert "All 2 searches are used up. Give the answer now." in tools.search("one")
    with pytest.raises(EpisodeError, match="All 2 searches are used up"):
        tools.search("two")
    tools.answer("k")
    for call in (tools.search, tools.answer):
        with pytest.raises(EpisodeError, match="This question is finished"):
            call("k")
    assert tools.get_reward() == 1.0
    tools = start_tools(source)
    with pytest.raises(EpisodeError, match="The answer is empty"):
        tools.answer("")
    assert tools.get_reward() == 0.0  # it never answers
    assert tools._started.episode.stop_reason == "max_turns"
    assert tools.get_reward() == 0.0
    with pytest.raises(ConfigError, match="call reset"):
        ZeroSearchTools(source).search("k")


def test_a_failed_search_of_a_tool_leaves_the_sample_out() -> None:
    tools = start_tools(make_source(search_engine=Failing("letter 0")))
    with pytest.raises(EngineError, match="it is down"):
        tools.search("k")
    assert tools.get_reward() is None
    tools.reset(**make_dataset(make_source())[1])
    assert "Constant" in tools.search("k")
    tools.answer("b")
    assert tools.get_reward() == 1.0


def factory_of(source: SessionSource, tokenizer: Any, **args: Any) -> Callable[[], ZeroSearchTools]:
    values = {"max_completion_length": 4000, "max_tool_calling_iterations": None, **args}
    return make_environment_factory(source, tokenizer, SimpleNamespace(**values))  # type: ignore[arg-type]


def test_the_factory_checks_template_prompt_and_budget() -> None:
    tools = {**OPTIONS, "prompt_template": TOOL_PROMPT}
    source = SessionSource(**tools)
    tokenizer = family_tokenizer("qwen2.5")
    environment = factory_of(source, tokenizer)()
    assert isinstance(environment, ZeroSearchTools)
    assert environment._source is source
    with pytest.raises(ConfigError, match=r"cannot show calls of tools.*RolloutFunc"):
        factory_of(source, tiny_policy().tokenizer)
    with pytest.raises(ConfigError, match=r"asks for tags.*prompt_template=TOOL_PROMPT"):
        factory_of(SessionSource(dataset=tiny_dataset()), tokenizer)
    with pytest.raises(ConfigError, match="set it to 3, for all searches and the answer"):
        factory_of(source, tokenizer, max_tool_calling_iterations=1)
    with pytest.raises(ConfigError, match=r"max_completion_length=100 is too small: .* about (\d+) tokens, .* (\d+)\."):
        factory_of(source, tokenizer, max_completion_length=100)
    with pytest.raises(EngineError, match="it is down"):
        factory_of(SessionSource(**tools, search_engine=Failing("letter")), tokenizer)


@pytest.mark.filterwarnings("error")
def test_the_budget_counts_the_tokens_of_a_real_conversation() -> None:
    """One token per byte: what TRL would append for two searches and an answer is what was announced."""
    source = SessionSource(**{**OPTIONS, "prompt_template": TOOL_PROMPT, "max_turns": 2})
    tokenizer = family_tokenizer("qwen2.5")
    question = source.dataset.questions[0]
    tools = start_tools(source)
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": question.text}}}
    search = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "search", "content": tools.search(question.text)},
    ]
    call = {"type": "function", "function": {"name": "answer", "arguments": {"text": question.answers[0]}}}
    answer = [{"role": "assistant", "content": "", "tool_calls": [call]}]

    def size(messages: list[Any], *, prompt: bool = False) -> int:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}, *messages], tokenize=False, add_generation_prompt=prompt
        )
        return len(tokenizer(text)["input_ids"])

    least = size([*search, *answer]) - size([], prompt=True)
    whole = size([*search, *search, *answer]) - size([], prompt=True)
    with pytest.raises(ConfigError, match=rf"about {least} tokens, all 2 searches {whole}\."):
        factory_of(source, tokenizer, max_completion_length=least - 1)
    with pytest.warns(UserWarning, match=rf"max_completion_length={least} does not hold all 2 searches, about {whole}"):
        factory_of(source, tokenizer, max_completion_length=least)
    factory_of(source, tokenizer, max_completion_length=whole)
    factory_of(source, tokenizer, max_completion_length=None)


@pytest.mark.parametrize("version", [None, "1.15.2", "1.17.0", "2.0"])
def test_another_version_is_refused(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(package: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.delitem(sys.modules, "zerosearch_env.integrations.trl")
    with pytest.raises(MissingExtraError, match=r"trl .*1\.16.*pip install \"zerosearch-env\[trl\]\""):
        importlib.import_module("zerosearch_env.integrations.trl")


# --- the examples, and a pretrained model


def load_example(name: str) -> Any:
    path = Path(__file__).resolve().parents[2] / "examples" / "trl" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_trl_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rollout_func", "environment_factory"])
def test_the_examples_train(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of few samples; docs/frameworks/trl.md has the rewards of the whole runs."""
    monkeypatch.chdir(tmp_path)
    trainers: list[Recorder] = []

    class Kept(Recorder):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            trainers.append(self)
            return super().train(*args, **kwargs)

    example = load_example(name)
    monkeypatch.setattr(example, "GRPOTrainer", Kept)
    (reward,) = example.main(steps=1, questions=1)
    assert 0 <= reward <= 1
    (batch,) = trainers[0].batches
    tokenizer = trainers[0].processing_class
    shown = set()
    for ids, complete, sampled in zip(
        batch["completion_ids"], batch["completion_mask"], batch["tool_mask"], strict=True
    ):
        for trained, text in segments(ids[complete.bool()].tolist(), sampled[complete.bool()].tolist(), tokenizer):
            assert not (trained and "<information>" in text)
            shown.add((trained, "<information>" in text))
    assert shown >= {(1, False), (0, True)}


@pytest.mark.servers
@pytest.mark.timeout(1800)
def test_a_pretrained_model_takes_real_steps(tmp_path: Path) -> None:
    """Two steps of SmolLM2-135M-Instruct with its chat template, which cannot show calls of tools."""
    folder = Path(os.environ.get("ZEROSEARCH_LLMS", ".llms")) / "smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: `python -m zerosearch_benchmarks.models FOLDER --models smollm2`")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = SessionSource(noise_level=0.25, top_k=1, max_turns=1, world={"passages": 300, "questions": 100})
    trainer = Recorder(
        AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
        # It hardly ever answers, so the environment's reward would be 0: short completions are as good for a test.
        reward_funcs=lambda completion_ids, **_: [-float(len(ids)) for ids in completion_ids],
        rollout_func=RolloutFunc(source, turn_tokens=32),
        train_dataset=make_dataset(source),
        processing_class=tokenizer,
        args=GRPOConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            num_generations=4, max_completion_length=200, learning_rate=1e-3, beta=0.0, bf16=False, optim="sgd",
            report_to=[], save_strategy="no", logging_steps=1, use_cpu=True,
        ),
    )  # fmt: skip
    before = trainer.model.model.layers[0].mlp.up_proj.weight.detach().clone()
    trainer.train()
    print([{name: entry.get(name) for name in ("reward", "grad_norm", "zerosearch/searches", "completions/mean_length")}
           for entry in trainer.state.log_history[:2]])  # fmt: skip
    assert [entry["step"] for entry in trainer.state.log_history[:2]] == [1, 2]
    assert any(entry["grad_norm"] > 0 for entry in trainer.state.log_history[:2])
    assert not torch.equal(before, trainer.model.model.layers[0].mlp.up_proj.weight)
    assert int((trainer.batches[0]["completion_mask"] * trainer.batches[0]["tool_mask"]).sum()) > 0
    text = tokenizer.decode(trainer.batches[0]["prompt_ids"][0])
    assert "<|im_start|>user\nFind the answer to the question at the end." in text
    with pytest.raises(ConfigError, match=r"smollm2-135m-instruct' cannot show calls of tools.*RolloutFunc"):
        factory_of(SessionSource(**{**OPTIONS, "prompt_template": TOOL_PROMPT}), tokenizer)
