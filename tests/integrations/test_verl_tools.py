"""verl's own tool agent loop calls `search` and `answer`; a scripted server stands in for vLLM."""

from __future__ import annotations

import asyncio
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from env_fakes import BadEngine, EchoEngine, make_dataset
from gym_reference import OPTIONS, reference

from zerosearch_env.envs.sessions import SessionSource
from zerosearch_env.errors import ConfigError, EngineError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of Ray and verl while they are imported
    pytest.importorskip("verl.experimental.agent_loop.tool_agent_loop")

from chat_templates import family_tokenizer
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.tools.tool_registry import initialize_tools_from_config
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from zerosearch_env.integrations.verl_tools import ZeroSearchToolLoop, make_tool_rows

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

TOKENIZER = family_tokenizer("qwen2.5")
MODULE = "zerosearch_env.integrations.verl_tools"


def call(name: str, *texts: str) -> str:
    argument = {"search": "query", "answer": "text"}[name]
    calls = [json.dumps({"name": name, "arguments": {argument: text}}) for text in texts]
    return "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in calls)


class Server:
    """Says the turns of a script, one per call, each with the end of the assistant's message."""

    def __init__(self, turns: list[str]) -> None:
        self.turns = [[*TOKENIZER.encode(turn, add_special_tokens=False), TOKENIZER.eos_token_id] for turn in turns]
        self.said: list[int] = []
        self.prompts: list[list[int]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], **_: Any) -> TokenOutput:
        ids = self.turns[len(self.prompts)]
        self.prompts.append(list(prompt_ids))
        self.said += ids
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids))


def play(row: dict[str, Any], turns: list[str], env: dict[str, Any], tmp_path: Path, **multi_turn: Any) -> Any:
    import verl

    tools = tmp_path / "tools.yaml"
    entries = [
        {"class_name": f"{MODULE}.{name}", "config": {"type": "native"}} for name in ("SearchTool", "AnswerTool")
    ]
    OmegaConf.save(OmegaConf.create({"tools": entries}), tools)
    whole = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/_generated_ppo_trainer.yaml")
    rollout = whole.actor_rollout_ref.rollout
    rollout.prompt_length, rollout.response_length = 2048, 20_000
    rollout.multi_turn = {**rollout.multi_turn, "max_tool_response_length": 4000, **multi_turn}
    server = Server(turns)

    async def run() -> Any:
        loop = ZeroSearchToolLoop(
            env=env,
            tools=ToolListWrap(initialize_tools_from_config(tools)),
            trainer_config=DictConfigWrap(whole),
            server_manager=server,
            tokenizer=TOKENIZER,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(whole.data),
        )
        return await loop.run({"temperature": 1.0}, raw_prompt=row["prompt"], **row)

    return asyncio.run(run()), server


def fake(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {"dataset": make_dataset(3), "search_engine": EchoEngine(), **options}
    return SessionSource.shared(**options).rows(count=1)[0], options


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_episode_is_that_of_the_environment(seed: int, tmp_path: Path) -> None:
    expected = reference(seed, "right")
    queries = [expected.infos[turn]["query"] for turn in range(2)]
    answer = expected.infos[-1]["prediction"]
    turns = [*[call("search", str(query)) for query in queries], call("answer", str(answer))]
    output, server = play(expected.row, turns, OPTIONS, tmp_path)
    assert output.reward_score == expected.rewards[-1] == 1.0
    session = SessionSource.shared(**OPTIONS).start_row(expected.row)
    text = TOKENIZER.decode(output.response_ids)
    for turn, query in enumerate(queries):
        assert session.search_text(str(query)) in text
        for document in expected.infos[turn]["documents"]:  # type: ignore[union-attr]
            assert document["text"] in text  # type: ignore[index, call-overload]
    sampled = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert sampled == server.said
    flags = [flag for flags in expected.flags for flag in flags]  # type: ignore[union-attr]
    assert output.extra_fields["reward_extra_info"]["noisy_searches"] == sum(flag is True for flag in flags)
    assert len(server.prompts) == 3  # nothing is generated after the answer


def test_the_prompt_describes_the_tools_and_the_row_asks_for_them(tmp_path: Path) -> None:
    row = make_tool_rows(count=1, **OPTIONS)[0]
    assert row["agent_name"] == "zerosearch_tools"
    output, _ = play(row, [call("answer", "Paris")], OPTIONS, tmp_path)
    prompt = TOKENIZER.decode(output.prompt_ids)
    assert "Search for documents." in prompt
    assert "Then call the tool `answer` once" in prompt
    assert "<search>" not in prompt


def test_more_searches_than_allowed_an_empty_answer_and_wrong_arguments_get_messages(tmp_path: Path) -> None:
    row, options = fake(max_turns=2)
    wrong = '<tool_call>\n{"name": "search", "arguments": {"wrong": 1}}\n</tool_call>'
    turns = [call("search", "a"), call("search", "b"), call("search", "c"), wrong, call("answer", "thing 0")]
    output, _ = play(row, turns, options, tmp_path)
    text = TOKENIZER.decode(output.response_ids)
    assert text.count("All 2 searches are used up") >= 2
    assert output.reward_score == 1.0
    assert output.extra_fields["reward_extra_info"]["searches"] == 2.0
    empty, _ = play(row, [call("answer", " "), call("answer", "thing 0")], options, tmp_path)
    assert "The answer is empty" in TOKENIZER.decode(empty.response_ids)
    assert empty.reward_score == 1.0


def test_calls_of_one_turn_are_taken_in_their_order(tmp_path: Path) -> None:
    row, options = fake(noise_level=0.5)
    turns = [call("search", "a", "b", "c"), call("answer", "thing 0")]
    output, _ = play(row, turns, options, tmp_path, max_parallel_calls=3)
    session = SessionSource.shared(**options).start_row(row)
    text = TOKENIZER.decode(output.response_ids)
    places = [text.index(session.search_text(query)) for query in ("a", "b", "c")]
    assert places == sorted(places)
    assert "still running" not in text


def test_an_engine_failure_raises_although_verl_shows_it_to_the_model(tmp_path: Path) -> None:
    row, options = fake(search_engine=BadEngine("a failure of the engine"))
    with pytest.raises(EngineError, match="down"):
        play(row, [call("search", "bad")], options, tmp_path)


def test_an_agent_that_stops_without_an_answer_has_reward_0(tmp_path: Path) -> None:
    row, options = fake()
    output, _ = play(row, [call("search", "a"), "thing 0"], options, tmp_path)
    assert output.reward_score == 0.0
    assert output.extra_fields["reward_extra_info"]["answered"] == 0.0


def test_verls_own_limit_that_would_cut_documents_is_refused(tmp_path: Path) -> None:
    row, options = fake()
    with pytest.raises(ConfigError, match=r"max_tool_response_length = 256 characters .* at least 1000"):
        play(row, [], options, tmp_path, max_tool_response_length=256)
