"""verl: an agent loop that plays episodes token by token, and the rows of its data files.

    # agent_loop.yaml, for actor_rollout_ref.rollout.agent.agent_loop_config_path
    - name: zerosearch
      _target_: zerosearch_env.integrations.verl.ZeroSearchAgentLoop
      env: {noise_level: 0.5}

`response_ids` has exactly the ids that were sampled (mask 1) and between them those of the observations (mask 0), in
the form in which this package's own learner trains (`zerosearch_env.llm.chat_format`). A row names its question, noise
level and seed, so every rollout of a group meets the same noise.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from ..envs.sessions import SessionSource
from ..errors import ConfigError, EngineError
from ..llm.chat_format import PromptFormat, TurnEncoder
from ..types import Json, StopReason
from .reports import episode_metrics
from .versions import require_version

require_version("verl", "0.9", "0.9", "pip install verl==0.9.1")

from omegaconf import OmegaConf  # noqa: E402
from verl.experimental.agent_loop.agent_loop import (  # noqa: E402
    AgentLoopBase,
    AgentLoopMetrics,
    AgentLoopOutput,
    register,
)
from verl.utils.profiler import simple_timer  # noqa: E402


@register("zerosearch")
class ZeroSearchAgentLoop(AgentLoopBase):
    """Plays one row. Loops of a process with equal options share one dataset and one engine.

    Args:
        env: options of `gym.make("ZeroSearch-v0")`.
        format: fields of `PromptFormat`. None: the chat template if the tokenizer has one, else plain text.
        **arguments: what verl passes to every agent loop.

    Raises:
        ConfigError: an option is invalid.
        DataError: the dataset cannot be read.
    """

    # Any: verl declares it so
    def __init__(
        self, *, env: Mapping[str, Any] | None = None, format: Mapping[str, Any] | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.source = SessionSource.shared(**plain_config(env))
        options = plain_config(format) if format is not None else {"chat": self.tokenizer.chat_template is not None}
        self._encoder = _make_encoder(self.tokenizer, self.source, PromptFormat(**options))

    # Any: likewise
    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **row: Any) -> AgentLoopOutput:
        """Play the episode of a row.

        Args:
            sampling_params: verl's; stop strings and the remaining number of tokens are added.
            priority: order of requests in vLLM.
            **row: the columns of a row of `make_rows`.

        Returns:
            Tokens, mask, log-probabilities (0 for observations; None if the server gives none), the reward, and the
            episode's scores in `extra_fields["reward_extra_info"]`. An observation that does not fit into
            `response_length` ends the episode (`context_limit`).

        Raises:
            ConfigError: the row does not name an episode of this source.
            EngineError: the search engine failed. verl cannot leave an episode out, and would learn from a reward 0.
        """
        session = self.source.start_row(row)
        (prompt,) = self._encoder.prompts([session.episode])
        limit, room = self.rollout_config.response_length, self.rollout_config.prompt_length
        if len(prompt) > room:
            raise ConfigError(
                f"the prompt of {session.episode.question.id!r} has {len(prompt)} tokens, more than "
                f"data.max_prompt_length = {room}: raise that, or set data.filter_overlong_prompts=true."
            )
        ids: list[int] = []
        mask: list[int] = []
        logprobs: list[float] | None = []
        extra: dict[str, Any] = {}
        times: dict[str, float] = {}
        request, opening = uuid4().hex, self._encoder.opening()
        while True:
            sampling = dict(sampling_params, max_tokens=limit - len(ids))
            sampling.update(stop=list(self.source.stop_strings), include_stop_str_in_output=True)
            with simple_timer("generate_sequences", times):
                sampled = await self.server_manager.generate(
                    request_id=request, prompt_ids=prompt + ids, sampling_params=sampling, priority=int(priority)
                )
            new = list(sampled.token_ids)[: limit - len(ids)]
            ids, mask = ids + new, mask + [1] * len(new)
            if logprobs is not None:
                logprobs = None if sampled.log_probs is None else logprobs + list(sampled.log_probs)[: len(new)]
            extra.update(sampled.extra_fields if not extra else _newest(sampled.extra_fields))
            text, end = self._turn(new)
            with simple_timer("tool_calls", times):
                step = await session.aturn(opening + text)
            if session.done:
                break
            (shown,) = self._encoder.observations([step], [(text, end)])
            opening = self._encoder.opening(step, end)
            if len(ids) + len(shown) >= limit:
                session.stop(StopReason.CONTEXT_LIMIT)
                break
            ids, mask = ids + shown, mask + [0] * len(shown)
            logprobs = None if logprobs is None else logprobs + [0.0] * len(shown)
        if step.stop_reason is StopReason.ENGINE_ERROR:
            raise EngineError(str(step.error))
        assert session.scores is not None
        extra |= {"turn_scores": [], "tool_rewards": [], "reward_extra_info": episode_metrics(session)}
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=ids,
            response_mask=mask,
            response_logprobs=logprobs,
            reward_score=float(session.scores.reward),
            num_turns=2 * len(session.episode.turns),
            metrics=AgentLoopMetrics(**times),
            extra_fields=extra,
        )

    def _turn(self, ids: Sequence[int]) -> tuple[str, int | None]:
        """The text of a turn, and the end-of-sequence token that ended it, if one did."""
        ends = {self.tokenizer.eos_token_id, self._encoder.end_id}
        end = ids[-1] if ids and ids[-1] in ends else None
        kept = list(ids) if end is None else list(ids[:-1])
        return self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False), end


# Any: `EnvOptions` gives each argument its type
def make_rows(
    *, seed: int = 0, count: int | None = None, answers: bool = False, agent: str = "zerosearch", **env_options: Any
) -> list[dict[str, Json]]:
    """Rows in verl's format: those of `SessionSource.rows` with `data_source`, `agent_name` and `reward_model`.

    Args:
        seed: random seed of the noise.
        count: number of rows, the first questions of the dataset; None: all.
        answers: whether `reward_model["ground_truth"]` has the gold answers. The agent loops do not read them.
        agent: name of the agent loop.
        **env_options: the options of the agent loop, `env`.

    Raises:
        ConfigError: an option is invalid.
        DataError: the dataset cannot be read.
    """
    made = SessionSource.shared(**env_options).rows(seed=seed, count=count, answers=answers)
    return [
        {
            **row,
            "data_source": "zerosearch",
            "agent_name": agent,
            "reward_model": {"style": "rule", "ground_truth": row.get("answers") or []},
        }
        for row in made
    ]


# Any: values of a configuration
def plain_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A part of the configuration as plain values."""
    return dict(OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config or {})


# Any: tokenizers of Transformers have no common type without importing it
@functools.lru_cache(maxsize=8)
def _make_encoder(tokenizer: Any, source: SessionSource, format: PromptFormat) -> TurnEncoder:
    """One encoder per tokenizer, source and format: verl makes an agent loop per episode."""
    return TurnEncoder(tokenizer, source.rules, format)


def _newest(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a later turn changes: the newest weights that sampled a token of the episode."""
    return {"max_global_steps": extra["max_global_steps"]} if extra.get("max_global_steps") is not None else {}
