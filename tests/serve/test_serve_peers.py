"""The real clients of two peers get their documents from our server, unchanged."""

from __future__ import annotations

import json
import logging
import warnings
from typing import Any

import pytest


def _import(name: str, distribution: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer warns about at import is its own business
        return pytest.importorskip(name, reason=f"{distribution} is not installed", exc_type=ImportError)


def test_skyrl_gym(start: Any) -> None:
    tools = _import("skyrl_gym.tools.search", "skyrl-gym")
    server = start()
    group = tools.SearchToolGroup(search_url=f"{server.url}/retrieve", topk=2, log_requests=False)
    shown = json.loads(group.search("who built the mill?"))["result"]
    assert shown == 'Doc 1: "Title 1"\nabout who built the mill?\nDoc 2: "Title 2"\nabout who built the mill?\n'
    response, error = tools.call_search_api(f"{server.url}/retrieve", "q", topk=3, log_requests=False)
    assert error is None
    assert [len(row) for row in response["result"]] == [3]


def test_skyrl_gym_environment(start: Any) -> None:
    """The search environment itself: the documents stand in its observation."""
    _import("skyrl_gym.tools.search", "skyrl-gym")
    skyrl_gym = _import("skyrl_gym", "skyrl-gym")
    server = start()
    settings = _import("omegaconf", "skyrl-gym").OmegaConf.create(
        {"search_url": f"{server.url}/retrieve", "topk": 1, "timeout": 10, "log_requests": False}
    )
    extras = {"reward_spec": {"ground_truth": {"target": ["Ada"]}}, "max_turns": 3}
    env = skyrl_gym.make("search", env_config=settings, extras=extras)
    env.init([{"role": "user", "content": "Who?"}])
    step = env.step("<search>first programmer</search>")
    assert "about first programmer" in step["observations"][0]["content"]
    assert not step["done"]


def test_skyrl_gym_is_told_of_a_failure(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = _import("skyrl_gym.tools.search", "skyrl-gym")
    monkeypatch.setattr(tools, "MAX_RETRIES", 2)
    monkeypatch.setattr(tools, "INITIAL_RETRY_DELAY", 0)
    logging.getLogger("skyrl_gym.tools.search").setLevel(logging.CRITICAL)
    server = start()
    response, error = tools.call_search_api(f"{server.url}/retrieve", "fail", log_requests=False)
    assert response is None
    assert "502" in error
    assert len(server.engine.calls) == 2


def test_gem(start: Any) -> None:
    """GEM sends msgpack, names no content type, and reads a flat result."""
    tools = _import("gem.tools.search_tool", "gem-llm")
    server = start()
    tool = tools.SearchTool(search_url=f"{server.url}/retrieve", topk=2)
    valid, failed, observation, action = tool.execute_action("<search>the mill</search> and more")
    assert (valid, failed, action) == (True, False, "<search>the mill</search>")
    assert 'Doc 1(Title: "Title 1") about the mill\nDoc 2(Title: "Title 2") about the mill' in observation
    assert "SearchTool Error" in tool.execute_action("<search>fail</search>")[2]


def test_a_client_that_takes_only_an_address_can_send_a_token(start: Any) -> None:
    tools = _import("skyrl_gym.tools.search", "skyrl-gym")
    server = start(token="s3cret")
    address = f"http://any:s3cret@127.0.0.1:{server.port}/retrieve"
    response, error = tools.call_search_api(address, "q", topk=1, log_requests=False)
    assert error is None
    assert response["result"]
    assert tools.call_search_api(f"{server.url}/retrieve", "q", log_requests=False)[0] is None
