"""The examples of agent frameworks play against a scripted endpoint, each in an own environment: `make test-agents`."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scripted_endpoint import ANSWER, SEARCHES, ScriptedEndpoint

from zerosearch_benchmarks.speed.chat_server import ServerThread
from zerosearch_env.records.transcripts import read_transcripts

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "tool_agents"
FRAMEWORKS = {
    "smolagents": ["smolagents"],
    "dspy": ["dspy"],
    "openai_agents": ["openai-agents"],
    "langgraph": ["langgraph", "langchain", "langchain-openai"],
    "llamaindex": ["llama-index-core", "llama-index-llms-openai-like"],
}
"""Name of the example -> the distributions that it needs."""


def play(name: str, folder: Path, url: str, *options: str) -> list[dict[str, Any]]:
    """Evaluate the example as a user does; returns the transcripts."""
    command = [str(Path(sys.executable).parent / "zerosearch"), "eval", "--output", "out", "--world.passages", "300"]
    command += ["--tool-agent", f"tool={EXAMPLES / name}_agent.py:agent", *options]
    # LiteLLM would look for a list of prices on the network.
    own = {
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "none",
        "MODEL": "scripted",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [record for path in (folder / "out/transcripts").glob("*.jsonl") for record in read_transcripts(path)]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_example_searches_is_refused_and_answers(name: str, tmp_path: Path) -> None:
    try:
        versions = ", ".join(f"{part} {importlib.metadata.version(part)}" for part in FRAMEWORKS[name])
    except importlib.metadata.PackageNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed: make test-agents")
    started = time.perf_counter()
    endpoint = ScriptedEndpoint()
    with ServerThread(endpoint) as server:
        (tmp_path / "three").mkdir()
        three = play(name, tmp_path / "three", server.url, "--questions", "3", "--noise", "0.5")
        (tmp_path / "refused").mkdir()
        refused = play(
            name, tmp_path / "refused", server.url, "--questions", "1", "--noise", "0", "--max-turns", str(SEARCHES - 1)
        )
    assert len(three) == 3
    for record in three:
        assert [turn["action"] for turn in record["turns"]] == ["search"] * SEARCHES + ["answer"]
        assert record["scores"]["prediction"] == ANSWER
    assert len({record["question"]["text"] for record in three}) == 3
    shown = "\n".join(str(body["messages"]) for body in endpoint.bodies)
    for record in three:
        for turn in record["turns"][:-1]:
            assert turn["documents"][0]["text"][:40] in shown  # the model has read the documents
    assert [turn["action"] for turn in refused[0]["turns"]] == ["search"] * (SEARCHES - 1) + ["answer"]
    assert "All 1 searches are used up" in shown
    print(f"{name}: {versions}: {len(endpoint.bodies)} requests, {time.perf_counter() - started:.1f} s")
