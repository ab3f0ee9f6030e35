"""A LangGraph agent, made by LangChain, as an agent that owns its loop.

    pip install zerosearch-env langchain langchain-openai
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=Qwen/Qwen3-4B
    zerosearch eval --tool-agent examples/tool_agents/langgraph_agent.py:agent --noise 0 0.5 1 --questions 100

LangGraph ends a run when a tool raises, so the tool returns the message of a refused search as its result.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from zerosearch_env import EpisodeError

model = ChatOpenAI(model=os.environ["MODEL"])  # reads OPENAI_BASE_URL and OPENAI_API_KEY


async def agent(question: str, search: Callable[[str], Awaitable[str]]) -> str:
    """Let the graph search until the model writes a message without a call."""

    @tool(description=search.__doc__)
    async def search_documents(query: str) -> str:
        try:
            return await search(query)
        except EpisodeError as error:
            return str(error)

    graph = create_agent(
        model,
        [search_documents],
        system_prompt="Answer in a few words. Documents can be misleading: check them.",
    )
    state = await graph.ainvoke({"messages": [{"role": "user", "content": question}]})
    return str(state["messages"][-1].text)
