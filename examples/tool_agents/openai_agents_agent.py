"""The OpenAI Agents SDK as an agent that owns its loop.

    pip install zerosearch-env openai-agents
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=Qwen/Qwen3-4B
    zerosearch eval --tool-agent examples/tool_agents/openai_agents_agent.py:agent --noise 0 0.5 1 --questions 100

A refused search (an `EpisodeError`) is shown to the model as the result of its call, and the loop goes on.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from openai import AsyncOpenAI

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)  # traces would be sent to OpenAI
model = OpenAIChatCompletionsModel(os.environ["MODEL"], AsyncOpenAI())  # reads OPENAI_BASE_URL and OPENAI_API_KEY


async def agent(question: str, search: Callable[[str], Awaitable[str]]) -> str:
    """Let an Agent search until it writes a message without a call."""
    loop = Agent(
        name="searcher",
        instructions="Answer in a few words. Documents can be misleading: check them.",
        model=model,
        tools=[function_tool(search)],
    )
    return str((await Runner.run(loop, question, max_turns=12)).final_output)
