"""smolagents as an agent that owns its loop.

    pip install zerosearch-env "smolagents[openai]"
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=Qwen/Qwen3-4B
    zerosearch eval --tool-agent examples/tool_agents/smolagents_agent.py:agent --noise 0 0.5 1 --questions 100

A refused search (an `EpisodeError`) is shown to the model as an error of the tool, and the loop goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from smolagents import OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel(os.environ["MODEL"])  # reads OPENAI_BASE_URL and OPENAI_API_KEY


def agent(question: str, search: Callable[[str], str]) -> str:
    """Let a ToolCallingAgent search until it calls `final_answer`."""
    loop = ToolCallingAgent([tool(search)], model, max_steps=8, verbosity_level=0)
    return str(loop.run(f"{question}\nAnswer in a few words. Documents can be misleading: check them."))
