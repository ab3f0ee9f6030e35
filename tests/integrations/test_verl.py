"""verl's agent loop worker plays episodes on CPU; a scripted server stands in for vLLM and returns token ids."""

from __future__ import annotations

import asyncio
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from env_fakes import ANSWER, SEARCH, BadEngine, EchoEngine, make_dataset
from gym_reference import OPTIONS, SCRIPTS, reference, turns_for
from pages import run_page

from zerosearch_env.envs.sessions import SessionSource
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.llm.chat_format import PromptFormat, TurnEncoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of Ray and verl while they are imported
    pytest.importorskip("verl.experimental.agent_loop.agent_loop")

import numpy as np
import torch
from chat_templates import family_tokenizer
from omegaconf import OmegaConf
from transformers import LlamaConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, DictConfigWrap
from verl.protocol import DataProto
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.rollout.replica import TokenOutput

from zerosearch_env.integrations.verl import ZeroSearchAgentLoop, make_rows

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

TOKENIZER = family_tokenizer("smollm2")
TOKENIZER.pad_token = TOKENIZER.eos_token
PLAIN = {"chat": False}


class Server:
    """Says the turns of a script, one per call, cut to the tokens that are left; remembers what it was asked."""

    def __init__(self, turns: list[str], *, eos: bool = False, logprobs: bool = True) -> None:
        self.turns = [TOKENIZER.encode(turn, add_special_tokens=False) for turn in turns]
        if eos:
            self.turns = [[*ids, TOKENIZER.eos_token_id] for ids in self.turns]
        self.logprobs = logprobs
        self.prompts: list[list[int]] = []
        self.sampling: list[dict[str, Any]] = []
        self.said: list[int] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], priority: int = 0
    ) -> TokenOutput:
        assert isinstance(priority, int)
        ids = self.turns[len(self.prompts)][: sampling_params["max_tokens"]]
        self.prompts.append(list(prompt_ids))
        self.sampling.append(sampling_params)
        self.said += ids
        step = len(self.prompts)
        return TokenOutput(
            token_ids=ids,
            log_probs=[-0.5] * len(ids) if self.logprobs else None,
            extra_fields={"global_steps": step, "min_global_steps": step, "max_global_steps": step},
        )


def config(response: int = 20_000, prompt: int = 4000) -> Any:
    rollout = {"response_length": response, "prompt_length": prompt}
    return OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})


def play(row: dict[str, Any], server: Server, *, response: int = 20_000, prompt: int = 4000, **arguments: Any) -> Any:
    async def run() -> Any:
        whole = config(response, prompt)
        loop = ZeroSearchAgentLoop(
            trainer_config=DictConfigWrap(whole),
            server_manager=server,
            tokenizer=TOKENIZER,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(whole.data),
            **arguments,
        )
        return await loop.run({"temperature": 1.0, "logprobs": True}, raw_prompt=row["prompt"], **row)

    return asyncio.run(run())


def fake(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {"dataset": make_dataset(3), "search_engine": EchoEngine(), **options}
    return SessionSource.shared(**options).rows(count=1)[0], options


def segments(output: Any) -> list[tuple[int, str]]:
    """(mask, text) of each stretch of tokens with the same mask."""
    stretches: list[tuple[int, list[int]]] = []
    for token, mask in zip(output.response_ids, output.response_mask, strict=True):
        if not stretches or stretches[-1][0] != mask:
            stretches.append((mask, []))
        stretches[-1][1].append(token)
    return [(mask, TOKENIZER.decode(ids)) for mask, ids in stretches]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_episode_is_that_of_the_environment_token_by_token(seed: int, script: str) -> None:
    expected = reference(seed, script)
    server = Server(expected.turns)
    output = play(expected.row, server, env=OmegaConf.create(OPTIONS), format=PLAIN)
    assert TOKENIZER.decode(output.prompt_ids) == expected.prompt
    texts = [text for pair in zip(expected.turns, expected.observations, strict=True) for text in pair if text]
    assert "".join(text for _, text in segments(output)) == "".join(texts)
    assert [text for mask, text in segments(output) if mask] == expected.turns
    assert [text for mask, text in segments(output) if not mask] == [text for text in expected.observations if text]
    sampled = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert sampled == server.said
    assert output.response_logprobs == [-0.5 * mask for mask in output.response_mask]
    assert output.reward_score == expected.rewards[-1]
    info = output.extra_fields["reward_extra_info"]
    assert info["noisy_searches"] == sum(flag is True for flags in expected.flags for flag in flags)  # type: ignore[union-attr]
    assert info["em"] == expected.infos[-1]["em"]
    whole = output.prompt_ids + output.response_ids
    assert all(whole[: len(prompt)] == prompt for prompt in server.prompts)  # each call continues the same tokens


def test_a_chat_model_gets_the_tokens_of_the_chat_template_and_of_our_own_learner() -> None:
    expected = reference(1, "mixed")
    server = Server(expected.turns, eos=True)
    output = play(expected.row, server, env=OPTIONS)
    source = SessionSource.shared(**OPTIONS)
    assert output.prompt_ids == TOKENIZER.apply_chat_template(
        expected.row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    encoder, session = TurnEncoder(TOKENIZER, source.rules, PromptFormat(chat=True)), source.start_row(expected.row)
    (ids,), mask = encoder.prompts([session.episode]), []
    for text in expected.turns:
        new = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
        ids, mask, step = ids + new, mask + [1] * len(new), session.turn(text)
        if not session.done:
            (shown,) = encoder.observations([step], [(text, TOKENIZER.eos_token_id)])
            ids, mask = ids + shown, mask + [0] * len(shown)
    assert output.prompt_ids + output.response_ids == ids
    assert output.response_mask == mask
    assert "<|im_start|>assistant" in TOKENIZER.decode(output.response_ids)


def test_the_server_is_told_where_to_stop_and_how_much_is_left() -> None:
    row, options = fake()
    server = Server([SEARCH, ANSWER])
    output = play(row, server, response=2000, env=options, format=PLAIN)
    assert [params["stop"] for params in server.sampling] == [["</search>", "</answer>"]] * 2
    assert all(params["include_stop_str_in_output"] for params in server.sampling)
    assert server.sampling[0]["max_tokens"] == 2000
    assert server.sampling[1]["max_tokens"] == 2000 - (len(server.prompts[1]) - len(output.prompt_ids))
    assert output.extra_fields["min_global_steps"] == 1
    assert output.extra_fields["max_global_steps"] == 2
    assert output.num_turns == 4  # prompt, search, documents, answer


def test_an_observation_that_does_not_fit_ends_the_episode() -> None:
    row, options = fake()
    server = Server([SEARCH, ANSWER])
    output = play(row, server, response=len(server.turns[0]) + 20, env=options, format=PLAIN)
    assert output.response_mask == [1] * len(server.turns[0])
    assert output.reward_score == 0.0
    assert output.extra_fields["reward_extra_info"]["answered"] == 0.0


def test_an_answer_that_fills_the_last_token_counts() -> None:
    row, options = fake()
    answer = f"<answer>{make_dataset(3).questions[0].answers[0]}</answer>"
    server = Server([answer], logprobs=False)
    output = play(row, server, response=len(server.turns[0]), env=options, format=PLAIN)
    assert output.reward_score == 1.0
    assert output.response_logprobs is None


def test_an_engine_failure_raises_and_is_no_reward() -> None:
    row, options = fake(search_engine=BadEngine("a failure of the engine"))
    with pytest.raises(EngineError, match="down"):
        play(row, Server(["<search>bad</search>"]), env=options, format=PLAIN)


def test_more_searches_than_allowed_an_empty_answer_and_an_agent_that_never_answers() -> None:
    row, options = fake(max_turns=2)
    server = Server(["<answer> </answer>", SEARCH, SEARCH])
    output = play(row, server, env=options, format=PLAIN)
    assert output.reward_score == 0.0
    assert output.extra_fields["reward_extra_info"]["searches"] == 1.0
    assert output.num_turns == 6


def test_a_prompt_that_is_too_long_and_a_row_of_something_else_are_refused() -> None:
    row, options = fake()
    with pytest.raises(ConfigError, match=r"tokens, more than data\.max_prompt_length = 50"):
        play(row, Server([]), prompt=50, env=options)
    with pytest.raises(ConfigError, match="question_id"):
        play({"prompt": row["prompt"], "extra_info": {"index": 1}}, Server([]), env=options)
    with pytest.raises(ConfigError, match="Did you mean"):
        play(row, Server([]), env={"noise_levle": 0.5})


def test_a_server_that_fails_leaves_nothing_behind() -> None:
    row, options = fake()
    with pytest.raises(IndexError):
        play(row, Server([SEARCH]), env=options, format=PLAIN)
    assert play(row, Server([ANSWER]), env=options, format=PLAIN).num_turns == 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    TOKENIZER.save_pretrained(folder)
    small = LlamaConfig(vocab_size=len(TOKENIZER), hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    small.architectures = ["LlamaForCausalLM"]
    small.save_pretrained(folder)
    return folder


def worker(model: Path, folder: Path, server: Any, **changes: Any) -> AgentLoopWorker:
    """verl's own worker with its own default configuration, on CPU."""
    import verl

    whole = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/_generated_ppo_trainer.yaml")
    loops = folder / "agent_loop.yaml"
    entry = {"name": "zerosearch", "_target_": f"{ZeroSearchAgentLoop.__module__}.ZeroSearchAgentLoop"}
    OmegaConf.save(OmegaConf.create([{**entry, "env": OPTIONS, **changes}]), loops)
    whole.actor_rollout_ref.model.path = str(model)
    rollout = whole.actor_rollout_ref.rollout
    rollout.name = "vllm"
    rollout.prompt_length, rollout.response_length = 1024, 4096
    rollout.agent.agent_loop_config_path = str(loops)
    rollout.calculate_log_probs = True
    return AgentLoopWorker(whole, server)


class Router:
    """One scripted agent per episode: verl's client is shared by all of a worker's episodes."""

    def __init__(self, scripts: dict[str, list[str]]) -> None:
        self.scripts = scripts
        self.servers: dict[str, Server] = {}

    async def generate(self, request_id: str, *, prompt_ids: list[int], **arguments: Any) -> TokenOutput:
        if request_id not in self.servers:
            prompt = TOKENIZER.decode(prompt_ids)
            (question,) = [question for question in self.scripts if question in prompt]
            self.servers[request_id] = Server(self.scripts[question])
        return await self.servers[request_id].generate(request_id, prompt_ids=prompt_ids, **arguments)


def test_verls_worker_plays_a_file_of_rows(model: Path, tmp_path: Path) -> None:
    rows = make_rows(count=3, seed=2, **OPTIONS)
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    data = OmegaConf.create({"max_prompt_length": 1024, "filter_overlong_prompts": True, "cache_dir": str(tmp_path)})
    items = RLHFDataset(data_files=str(path), tokenizer=TOKENIZER, config=data)
    batch = DataProto.from_single_dict(collate_fn([items[index] for index in (0, 0, 1, 2)]))
    source = SessionSource.shared(**OPTIONS)
    asked = [source.dataset.questions[index] for index in range(3)]
    scripts = {question.text: turns_for(question.text, question.answers[0], "right") for question in asked}
    loop_worker = worker(model, tmp_path, Router(scripts))
    done = asyncio.run(loop_worker.generate_sequences(batch))
    assert done.batch["rm_scores"].sum(-1).tolist() == [1.0] * 4
    assert done.batch["responses"].shape == (4, 4096)
    assert torch.equal(done.batch["responses"][0], done.batch["responses"][1])  # one row, one noise
    said = done.batch["response_mask"].bool()
    assert (done.batch["rollout_log_probs"][said] == -0.5).all()
    text = TOKENIZER.decode(done.batch["responses"][0][said[0]])
    assert text == "".join(scripts[asked[0].text])
    assert done.non_tensor_batch["em"].tolist() == [1.0] * 4
    assert np.isin(done.non_tensor_batch["noisy_searches"], (0.0, 1.0, 2.0)).all()
    assert done.meta_info["reward_extra_keys"][0] == "em"


def test_rows_have_verls_columns_and_gold_answers_only_on_request() -> None:
    row = make_rows(count=1, **OPTIONS)[0]
    assert row["agent_name"] == row["data_source"] == "zerosearch"
    assert row["reward_model"] == {"style": "rule", "ground_truth": []}
    answered = make_rows(count=1, answers=True, **OPTIONS)[0]
    assert answered["reward_model"]["ground_truth"]  # type: ignore[index, call-overload]


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = run_page("frameworks/verl.md")["output"]
    assert output.num_turns == 4
    assert set(output.response_mask) == {0, 1}
