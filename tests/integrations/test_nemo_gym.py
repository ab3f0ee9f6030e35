"""NeMo-Gym's own agent plays episodes on the server, over its HTTP routes; a scripted model writes the turns."""

from __future__ import annotations

import asyncio
import json
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from env_fakes import ANSWER, SEARCH, BadEngine, EchoEngine, make_dataset
from gym_reference import OPTIONS, SCRIPTS, reference
from pages import run_page

from zerosearch_env.envs.sessions import SessionSource
from zerosearch_env.errors import ConfigError, EngineError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of NeMo-Gym's libraries while they are imported
    pytest.importorskip("resources_servers.gymnasium")
    pytest.importorskip("responses_api_agents.gymnasium_agent.app")

import httpx
from nemo_gym.config_types import ModelServerRef, ResourcesServerRef
from nemo_gym.openai_utils import NeMoGymResponse
from nemo_gym.server_utils import ServerClient
from responses_api_agents.gymnasium_agent.app import GymnasiumAgent, GymnasiumAgentConfig, GymnasiumAgentRunRequest

from zerosearch_env.integrations.nemo_gym import ZeroSearchServer, ZeroSearchServerConfig, make_rows

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


def server(env: dict[str, Any], **config: Any) -> ZeroSearchServer:
    own = ZeroSearchServerConfig(
        **{"host": "", "port": 0, "entrypoint": "app.py", "domain": "other", "name": "zerosearch", "env": env, **config}
    )
    return ZeroSearchServer(config=own, server_client=MagicMock(spec=ServerClient))


def response(text: str) -> dict[str, Any]:
    content = [{"annotations": [], "text": text, "type": "output_text"}]
    message = {"id": "m", "content": content, "role": "assistant", "status": "completed", "type": "message"}
    fixed = {"id": "r", "created_at": 0.0, "model": "m", "object": "response", "parallel_tool_calls": True}
    return {**fixed, "tool_choice": "auto", "tools": [], "output": [message]}


class Reply:
    """An answer of httpx in the form that NeMo-Gym reads."""

    def __init__(self, answer: httpx.Response) -> None:
        self.ok, self.status, self.cookies = answer.is_success, answer.status_code, dict(answer.cookies)
        self.content = self
        self._answer = answer

    async def read(self) -> bytes:
        return self._answer.content

    def raise_for_status(self) -> None:
        self._answer.raise_for_status()


class Client:
    """Sends an agent's requests to a server's application, and those for the model to a script."""

    def __init__(self, app: Any, turns: list[str]) -> None:
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        self.turns = list(turns)
        self.steps: list[dict[str, Any]] = []
        self.inputs: list[Any] = []

    async def post(self, server_name: str, url_path: str, json: Any = None, cookies: Any = None) -> Reply:
        if server_name == "policy_model":
            self.inputs.append([item.model_dump() for item in json.input])
            request = httpx.Request("POST", f"http://model{url_path}")
            return Reply(httpx.Response(200, json=response(self.turns.pop(0)), request=request))
        self.http.cookies.clear()
        answer = await self.http.post(url_path, json=json, cookies=dict(cookies or {}))
        if url_path == "/step" and answer.is_success:
            self.steps.append(answer.json())
        return Reply(answer)


def run(served: ZeroSearchServer, row: dict[str, Any], turns: list[str], max_steps: int = 10) -> tuple[Any, Client]:
    client = Client(served.setup_webserver(), turns)
    agent = GymnasiumAgent(
        config=GymnasiumAgentConfig(
            **{"host": "", "port": 0, "entrypoint": "app.py", "name": "zerosearch_agent", "max_steps": max_steps},
            resources_server=ResourcesServerRef(type="resources_servers", name="zerosearch"),
            model_server=ModelServerRef(type="responses_api_models", name="policy_model"),
        ),
        server_client=MagicMock(spec=ServerClient),
    )
    agent.server_client.post = client.post
    request = MagicMock(cookies={})
    return asyncio.run(agent.run(request, GymnasiumAgentRunRequest.model_validate(row))), client


def nemo_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"responses_create_params": {"input": row["prompt"]}, **row}


def fake(**options: Any) -> tuple[ZeroSearchServer, dict[str, Any]]:
    options = {"dataset": make_dataset(3), "search_engine": EchoEngine(), **options}
    return server(options), nemo_row(SessionSource.shared(**options).rows(count=1)[0])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_episode_is_that_of_the_environment(seed: int, script: str) -> None:
    expected = reference(seed, script)
    served = server(OPTIONS)
    result, client = run(served, json.loads(json.dumps(nemo_row(expected.row))), expected.turns)
    assert [item["content"] for item in client.inputs[0]] == [expected.prompt]
    assert [step["observation"] or "" for step in client.steps] == expected.observations
    assert [step["reward"] for step in client.steps] == expected.rewards
    assert [step["terminated"] or step["truncated"] for step in client.steps] == expected.done
    assert [step["info"]["noise_flags"] for step in client.steps] == expected.flags
    metrics = client.steps[-1]["info"].pop("metrics")
    assert [step["info"] for step in client.steps] == expected.infos
    assert metrics["em"] == expected.infos[-1]["em"]
    assert result.reward == expected.rewards[-1]
    assert served.session_state == {}


def test_the_model_reads_the_observations() -> None:
    served, row = fake()
    _, client = run(served, row, [SEARCH, ANSWER])
    assert [item["role"] for item in client.inputs[1]] == ["user", "assistant", "user"]
    assert "<information>" in str(client.inputs[1][-1]["content"])


def test_an_engine_failure_fails_the_request_and_is_no_reward() -> None:
    served, row = fake(search_engine=BadEngine("a failure of the engine"))
    with pytest.raises(EngineError, match="down"):  # NeMo-Gym's middleware turns it into status 500
        run(served, row, ["<search>bad</search>"])
    assert served.session_state == {}


def test_calls_after_the_end_and_without_a_start_get_a_message() -> None:
    served, row = fake()

    async def play() -> list[Any]:
        await served.reset(row, "a")
        said = NeMoGymResponse.model_validate(response(ANSWER))
        ended = await served.step(said, row, "a")
        await served.close_session("a")
        return [ended, await served.step(said, row, "a"), await served.step(said, row, "never")]

    ended, after, never = asyncio.run(play())
    assert ended[2]
    assert "no open question" in after[0]
    assert after[1:4] == (0.0, False, True)
    assert never[0] == after[0]


def test_more_searches_than_allowed_an_empty_answer_and_an_agent_that_never_answers() -> None:
    served, row = fake(max_turns=2)
    result, client = run(served, row, ["<answer> </answer>", SEARCH, SEARCH, SEARCH])
    assert (result.reward, result.truncated, len(client.steps)) == (0.0, True, 3)
    assert result.info["stop_reason"] == "max_turns"
    assert result.info["metrics"]["searches"] == 1.0


def test_sessions_of_clients_that_left_are_freed() -> None:
    served, row = fake()
    served.config.max_sessions = 3

    async def leave() -> None:
        for number in range(10):
            await served.reset(row, str(number))

    asyncio.run(leave())
    assert list(served.session_state) == ["7", "8", "9"]
    result, _ = run(served, row, [SEARCH], max_steps=1)  # the agent stops before the end
    assert result.truncated
    assert len(served.session_state) == 3


def test_many_episodes_at_the_same_time_share_one_engine() -> None:
    served, row = fake(noise_level=0.5)

    async def play(name: str) -> list[Any]:
        await served.reset(row, name)
        said = NeMoGymResponse.model_validate(response(SEARCH))
        return [(await served.step(said, row, name))[0] for _ in range(2)]

    async def together() -> list[list[Any]]:
        return await asyncio.gather(*[play(str(number)) for number in range(32)])

    texts = asyncio.run(together())
    assert all(text == texts[0] for text in texts)
    assert len(served.session_state) == 32


def test_bad_options_and_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean"):  # pydantic's own, with our message
        server({"noise_levle": 0.5})
    served, _ = fake()
    with pytest.raises(ConfigError, match="question_id"):
        asyncio.run(served.reset({"expected_answer": "Paris"}, "a"))


def test_rows_have_nemo_gyms_columns_and_no_gold_answers() -> None:
    row = make_rows(count=1, agent="mine", **OPTIONS)[0]
    assert row["agent_ref"] == {"type": "responses_api_agents", "name": "mine"}
    assert "answers" not in row
    assert "prompt" not in row
    assert row["responses_create_params"]["input"][0]["role"] == "user"  # type: ignore[index, call-overload]


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("frameworks/nemo-gym.md")
    assert names["step"]["terminated"]
    assert len((tmp_path / "train.jsonl").read_text("utf-8").splitlines()) == 8
