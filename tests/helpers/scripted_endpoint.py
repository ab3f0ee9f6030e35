"""An OpenAI-compatible endpoint that plays a searching agent by a script, in the form that each framework expects.

It searches twice for the question and then answers "Paris". It needs no state: what has been done is in the messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from zerosearch_benchmarks.speed.chat_server import Call, Reply

ANSWER = "Paris"
SEARCHES = 2


class ScriptedEndpoint:
    """Handles the requests of frameworks; keeps the bodies of those to /chat/completions."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def __call__(self, call: Call) -> Reply:
        if not call.path.endswith("/chat/completions"):
            return Reply({"data": [{"id": "scripted", "object": "model"}]})
        self.bodies.append(call.body)
        return Reply(completion(reply_to(call.body)))


def reply_to(body: Mapping[str, Any]) -> dict[str, Any]:
    """The message with which the model goes on."""
    text = "\n".join(map(_text, body["messages"]))
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    if "[[ ## next_tool_name ## ]]" in text:  # DSPy's ReAct
        finished = (
            text.count("[[ ## observation_") >= SEARCHES or len(re.findall(r"\bobservation_\d", text)) >= SEARCHES
        )
        fields = {
            "next_thought": "I go on.",
            "next_tool_name": "finish" if finished else "search",
            "next_tool_args": "{}" if finished else json.dumps({"query": "the capital"}),
        }
        return message(_fields(fields))
    if "[[ ## answer ## ]]" in text:
        return message(_fields({"reasoning": "The documents say so.", "answer": ANSWER}))
    # smolagents writes earlier calls into texts, and a failed call as an error only.
    searched = sum(len(said.get("tool_calls") or ()) for said in body["messages"])
    searched += text.count("Calling tools:") + text.count("Now let's retry")
    if tools and searched < SEARCHES:
        return call(next(name for name in tools if name.startswith("search")), {"query": "the capital"}, searched)
    return call("final_answer", {"answer": ANSWER}, searched) if "final_answer" in tools else message(ANSWER)


def message(text: str) -> dict[str, Any]:
    """A message without a call."""
    return {"role": "assistant", "content": text}


def call(name: str, arguments: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A message that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def completion(said: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat completion."""
    finish = "tool_calls" if said.get("tool_calls") else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "message": dict(said), "finish_reason": finish}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _fields(fields: Mapping[str, str]) -> str:
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in [*fields.items(), ("completed", "")])


def _text(said: Mapping[str, Any]) -> str:
    content = said.get("content")
    parts: Sequence[Any] = content if isinstance(content, list) else [content or ""]
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)
