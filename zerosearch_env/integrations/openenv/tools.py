"""The tools `search` and `answer`, as OpenEnv lists and calls those of an MCP server."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from openenv.core.env_server.mcp_types import ToolError, ToolErrorType

from ...envs.session import Session
from ...errors import unknown_name

Play = Callable[[Callable[[Session], Awaitable[str]]], Awaitable[tuple[str, dict[str, Any]]]]
"""Takes an action; returns what the model reads, and more. `SearchEnvironment.play` is one."""


async def search(session: Session, query: str) -> str:
    """Search for documents. Say what to search for in a few words, or as a question."""
    return await session.asearch_text(query)


async def answer(session: Session, text: str) -> str:
    """Give the answer to the question, alone and in a few words. This ends the task."""
    return await session.aanswer_text(text)


TOOLS: Mapping[str, Callable[..., Awaitable[str]]] = {"search": search, "answer": answer}
_PARAMETERS = {"search": "query", "answer": "text"}


class Tools:
    """The tools of one client, in the form in which OpenEnv's MCP endpoints read those of a FastMCP server.

    They call the session directly: no MCP server and client are made for each session.

    Args:
        play: takes the action of a call.
    """

    def __init__(self, play: Play) -> None:
        self._play = play

    async def list_tools(self) -> list[SimpleNamespace]:
        """Every tool with its name, description, JSON schema and function."""
        return [
            SimpleNamespace(
                name=name,
                description=tool.__doc__,
                parameters={
                    "type": "object",
                    "properties": {_PARAMETERS[name]: {"type": "string"}},
                    "required": [_PARAMETERS[name]],
                },
                fn=functools.partial(self._call, name),
            )
            for name, tool in TOOLS.items()
        ]

    # Any: whatever the client sent
    async def _call(self, name: str, **arguments: Any) -> str:
        if (error := wrong_call(name, arguments)) is not None:
            return str(error.message)
        text, _ = await self._play(lambda session: TOOLS[name](session, **arguments))
        return text


# Any: whatever the client sent
def wrong_call(name: str, arguments: Mapping[str, Any]) -> ToolError | None:
    """The error of a call that no tool understands, in words for a model; None for a good one.

    Args:
        name: name of the tool.
        arguments: what it is called with.
    """
    if name not in TOOLS:
        message = str(unknown_name("tool", name, TOOLS))
        return ToolError(error_type=ToolErrorType.TOOL_NOT_FOUND, message=message)
    parameter = _PARAMETERS[name]
    if arguments.keys() == {parameter} and isinstance(arguments[parameter], str):
        return None
    message = f"{name} takes one argument, the string {parameter!r}; got {dict(arguments)!r:.200}"
    return ToolError(error_type=ToolErrorType.INVALID_ARGS, message=message)
