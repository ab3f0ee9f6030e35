"""The tools `search` and `answer`, as OpenEnv lists and calls those of an MCP server."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from openenv.core.env_server.mcp_types import ToolError, ToolErrorType

from ...envs.session import Session
from ...errors import unknown_name
from ..tool_texts import ANSWER, SEARCH

Play = Callable[[Callable[[Session], Awaitable[str]]], Awaitable[tuple[str, dict[str, Any]]]]
"""Takes an action; returns what the model reads, and more. `SearchEnvironment.play` is one."""
TOOLS: Mapping[str, Callable[..., Awaitable[str]]] = {
    SEARCH.name: Session.asearch_text,
    ANSWER.name: Session.aanswer_text,
}
"""What each tool does in a session."""
_ARGUMENTS = {tool.name: tool.argument for tool in (SEARCH, ANSWER)}


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
                name=tool.name,
                description=tool.does,
                parameters=tool.parameters,
                fn=functools.partial(self._call, tool.name),
            )
            for tool in (SEARCH, ANSWER)
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
    parameter = _ARGUMENTS[name]
    if arguments.keys() == {parameter} and isinstance(arguments[parameter], str):
        return None
    message = f"{name} takes one argument, the string {parameter!r}; got {dict(arguments)!r:.200}"
    return ToolError(error_type=ToolErrorType.INVALID_ARGS, message=message)
