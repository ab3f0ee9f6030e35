"""LlamaIndex's FunctionAgent as an agent that owns its loop.

    pip install zerosearch-env llama-index-core llama-index-llms-openai-like
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=Qwen/Qwen3-4B
    zerosearch eval --tool-agent examples/tool_agents/llamaindex_agent.py:agent --noise 0 0.5 1 --questions 100

A refused search (an `EpisodeError`) is shown to the model as an error of the tool, and the loop goes on.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model=os.environ["MODEL"],
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=32_768,
)


async def agent(question: str, search: Callable[[str], Awaitable[str]]) -> str:
    """Let a FunctionAgent search until the model writes a message without a call."""
    loop = FunctionAgent(
        tools=[search],
        llm=model,
        system_prompt="Answer in a few words. Documents can be misleading: check them.",
        streaming=False,
    )
    return str(await loop.run(question))
