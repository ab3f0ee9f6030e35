"""verl, for models that call tools: `search` and `answer` as `BaseTool`s, and the agent loop that owns their episode.

    # tools.yaml, for actor_rollout_ref.rollout.multi_turn.tool_config_path
    tools:
      - {class_name: zerosearch_env.integrations.verl_tools.SearchTool, config: {type: native}}
      - {class_name: zerosearch_env.integrations.verl_tools.AnswerTool, config: {type: native}}

    # agent_loop.yaml, for actor_rollout_ref.rollout.agent.agent_loop_config_path
    - name: zerosearch_tools
      _target_: zerosearch_env.integrations.verl_tools.ZeroSearchToolLoop
      env: {noise_level: 0.5}

verl makes and releases a tool for every call and shows a tool's exceptions to the model. So the episode belongs to the
loop, which raises if the search engine failed. Without the loop the tools do nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

from ..envs.session import Session
from ..envs.sessions import SessionSource
from ..errors import ConfigError, EngineError, EpisodeError
from ..types import Json, StopReason
from .reports import episode_metrics
from .tool_texts import ANSWER, SEARCH, TOOL_PROMPT, ToolText
from .verl import make_rows, plain_config

# verl's modules come after our `verl`, which checks its version
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register  # isort: skip
from verl.experimental.agent_loop.tool_agent_loop import AgentState, ToolAgentLoop  # isort: skip
from verl.tools.base_tool import BaseTool  # isort: skip
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse  # isort: skip

_LEAST_CHARS = 1000
"""Shorter tool responses would cut the documents of a search, about 760 to 1,000 characters in the built-in world."""

_EPISODE: ContextVar[tuple[Session, asyncio.Lock]] = ContextVar("zerosearch_episode")
"""The episode of the running agent loop, and a lock: verl may run the calls of one turn at the same time."""


class _EpisodeTool(BaseTool):
    """A tool with one string as its argument."""

    text: ClassVar[ToolText]

    # Any: verl declares it so
    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        super().__init__(config, tool_schema)

    def get_openai_tool_schema(self) -> OpenAIFunctionToolSchema:
        """The description that the model reads."""
        function = {"name": self.text.name, "description": self.text.does, "parameters": self.text.parameters}
        return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})

    # Any: likewise
    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Take the action in the running episode. What the model can do something about is the tool's response."""
        session, lock = _EPISODE.get()
        async with lock:
            try:
                text = await self.act(session, str(parameters.get(self.text.argument, "")))
            except EpisodeError as error:
                text = str(error)
        return ToolResponse(text=text), 0.0, {}

    async def act(self, session: Session, text: str) -> str:
        """What the tool does."""
        raise NotImplementedError


class SearchTool(_EpisodeTool):
    """`search(query)`: the documents as text."""

    text = SEARCH

    async def act(self, session: Session, text: str) -> str:
        """Search."""
        return await session.asearch_text(text)


class AnswerTool(_EpisodeTool):
    """`answer(text)`: ends the episode."""

    text = ANSWER

    async def act(self, session: Session, text: str) -> str:
        """Answer."""
        return await session.aanswer_text(text)


@register("zerosearch_tools")
class ZeroSearchToolLoop(ToolAgentLoop):
    """verl's `ToolAgentLoop` with an episode, which ends with the call of `answer`, and with its reward.

    Args:
        env: options of `gym.make("ZeroSearch-v0")`.
        **arguments: what verl passes to every agent loop.

    Raises:
        ConfigError: an option is invalid, a tool is missing, or verl would cut the documents.
        DataError: the dataset cannot be read.
    """

    # Any: verl declares it so
    def __init__(self, *, env: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.source = SessionSource.shared(**plain_config(env))
        if missing := {SEARCH.name, ANSWER.name} - set(self.tools):
            raise ConfigError(f"tool_config_path must name SearchTool and AnswerTool, got no tool {sorted(missing)}.")
        if self.max_tool_response_length < _LEAST_CHARS:
            raise ConfigError(
                f"multi_turn.max_tool_response_length = {self.max_tool_response_length} characters cuts the documents "
                f"of a search: expected at least {_LEAST_CHARS}."
            )

    # Any: likewise
    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **row: Any) -> AgentLoopOutput:
        """Play the episode of a row of `make_tool_rows`. An agent that stops calling tools has no answer.

        Raises:
            ConfigError: the row does not name an episode of this source.
            EngineError: the search engine failed; see `ZeroSearchAgentLoop`.
        """
        session = self.source.start_row(row)
        token = _EPISODE.set((session, asyncio.Lock()))
        try:
            output: AgentLoopOutput = await super().run(sampling_params, priority=int(priority), **row)
        finally:
            _EPISODE.reset(token)
        if not session.done:
            full = len(output.response_ids) >= self.response_length
            session.stop(StopReason.CONTEXT_LIMIT if full else StopReason.MAX_TURNS)
        if session.episode.stop_reason is StopReason.ENGINE_ERROR:
            raise EngineError(str(session.episode.turns[-1].step.error))
        assert session.scores is not None
        output.reward_score = float(session.scores.reward)
        output.extra_fields["reward_extra_info"] = episode_metrics(session)
        return output

    # Any: likewise
    async def _handle_processing_tools_state(self, agent_data: Any) -> AgentState:
        state = await super()._handle_processing_tools_state(agent_data)
        return AgentState.TERMINATED if _EPISODE.get()[0].done else state


# Any: `EnvOptions` gives each argument its type
def make_tool_rows(*, seed: int = 0, count: int | None = None, **env_options: Any) -> list[dict[str, Json]]:
    """`make_rows` for `ZeroSearchToolLoop`: with `TOOL_PROMPT`, or with your own `prompt_template`."""
    options = {"prompt_template": TOOL_PROMPT, **env_options}
    return make_rows(seed=seed, count=count, agent="zerosearch_tools", **options)
