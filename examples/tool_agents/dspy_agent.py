"""DSPy's ReAct as an agent that owns its loop.

    pip install zerosearch-env dspy
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=Qwen/Qwen3-4B
    zerosearch eval --tool-agent examples/tool_agents/dspy_agent.py:agent --noise 0 0.5 1 --questions 100

A refused search (an `EpisodeError`) is an observation of the trajectory, which the model reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import dspy

lm = dspy.LM(f"openai/{os.environ['MODEL']}", api_base=os.environ["OPENAI_BASE_URL"], cache=False)


class Answer(dspy.Signature):
    """Answer the question in a few words. Documents can be misleading: check them."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def agent(question: str, search: Callable[[str], str]) -> str:
    """Let ReAct search until it finishes, and extract the answer from its trajectory."""
    with dspy.context(lm=lm):
        return str(dspy.ReAct(Answer, tools=[search], max_iters=8)(question=question).answer)
