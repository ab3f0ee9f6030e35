"""What is sent between client and server: actions, observations and the state."""

from __future__ import annotations

from typing import Any

from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

_TOOL_ACTIONS: dict[str, type[Action]] = {"call_tool": CallToolAction, "list_tools": ListToolsAction}


class SearchAction(Action):
    """One turn of the policy. The actions of OpenEnv's MCP clients, which call tools, are accepted in its place."""

    text: str = Field(description="The policy's text of this turn, with the tags of the protocol.")

    # Any: pydantic declares it so
    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Any:
        """Check the data of an action; `type` in the data of MCP clients tells which kind of action it is."""
        tool = _TOOL_ACTIONS.get(str(obj["type"])) if isinstance(obj, dict) and "type" in obj else None
        return super().model_validate(obj, **options) if tool is None else tool.model_validate(obj, **options)


class SearchObservation(Observation):
    """What the policy reads next. At the end of an episode `metadata` has its scores."""

    text: str = Field("", description="The prompt, the documents of a search, or a notice.")
    question: str | None = Field(None, description="After a reset: the question alone, for prompts of your own.")


class SearchState(State):
    """What the trainer may know about the episode, and the policy must not."""

    question_id: str | None = None
    noise_level: float | None = None
    progress: float = Field(0.0, description="Progress of the curriculum in [0, 1] that the next episode meets.")
    # Any: flags, or lists of flags
    noisy: list[Any] = Field([], description="Whether each search so far was noisy, or each of its documents.")
    # Any: JSON values
    scores: dict[str, Any] | None = Field(None, description="After the end: reward, stop_reason, em, answers, ...")
