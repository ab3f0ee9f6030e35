"""The options of every command in which agents play: which data, which rules, which agents, on what machine."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from zerosearch_env.datasets.options import ReadingOptions
from zerosearch_env.datasets.sources import includes_world
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.rules import Rules, make_rules
from zerosearch_env.types import Dataset

from ..config.agent import FORMAT_OPTIONS, RULE_OPTIONS, AgentChoices
from ..processes.pool import WorkerPool, default_workers
from .base import AgentOptions, OnAgentError, Player, PolicyOptions
from .spec import parse_agent


@dataclass(frozen=True)
class PlayConfig(ReadingOptions, AgentChoices):
    """The options that `zerosearch eval` and `zerosearch simulator collect` share."""

    dataset: str = "world"
    """The built-in world ("world"), a file, a folder, or a hub name; several with commas, weights as in A=2,B=1."""
    seed: int = 0
    """Random seed for the choice of questions, the noise draws and the sampled tokens."""
    policy: str = "tiny"
    """The model of the built-in players, with options as in --agent: a policy directory, a name on the Hugging Face Hub
    (ORG/NAME, ORG/NAME@REVISION), openai:URL, vllm:MODEL, or "tiny", the shipped base model."""
    temperature: float = 0.0
    """Sampling temperature of policies and of models behind an endpoint; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling of policies: only the most probable tokens that together have this probability, in (0, 1]."""
    turn_tokens: int | None = None
    """Maximum number of tokens a model samples per turn; unset: the value in its card, else the protocol's."""
    context_tokens: int | None = None
    """Maximum number of tokens of a policy's episode, prompt and documents included; unset: the value in its card, else
    the protocol's, at most 4,096. The model's own context is never exceeded."""
    slots: int = 64
    """Episodes that a policy decodes in parallel in each process."""
    workers: int | None = None
    """Number of processes for policies on the CPU; unset: the number of cores, at most 2."""
    device: str = "cpu"
    """Device of the policies: "cpu" or "cuda"."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the policies' weights; "auto": what is fast on the device and loses no digits of the checkpoint."""
    concurrency: int | None = None
    """Number of episodes that your own agent, or a model behind an endpoint, plays at the same time, in threads; unset:
    1, and 16 for an endpoint."""
    on_agent_error: OnAgentError = "stop"
    """What follows a failure of your own agent or of an endpoint: "stop" ends the command, "retry" asks again up to
    three times, after 1, 2 and 4 seconds, and then skips, "skip" leaves the episode out. Failures are counted."""
    turn_timeout: float | None = None
    """Time limit for one turn of your own agent or of an endpoint, in seconds; unset: none, and 600 for an endpoint. A
    turn that exceeds it is a failure."""
    isolate: bool = False
    """Run each of your own agents in its own process, which the gold answers never enter. An agent in this process must
    be trusted: it could read them from memory."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world."""

    def load_dataset(self, split: str) -> Dataset:
        """The dataset to play; the options of the world apply only to the world."""
        return self.load(self.dataset, split, world=self.world)

    def make_players(
        self, agents: Sequence[str], stack: contextlib.ExitStack, tool_agents: Sequence[str] = ()
    ) -> list[Player]:
        """The players of these specs.

        Args:
            agents: specs of `make.make_player`.
            stack: ends their worker processes, if any.
            tool_agents: specs of `make.make_tool_player`.

        Raises:
            ConfigError: see `make_player` and `policy_path`; or two players have the same name, or an endpoint does
                not answer.
            CheckpointError: a policy's directory is incomplete or damaged, or holds another kind of model.
        """
        from .make import make_player, make_tool_player, policy_options  # HTTP clients: not needed for a help text

        common = PolicyOptions(
            path="",
            temperature=self.temperature,
            top_p=self.top_p,
            slots=self.slots,
            turn_tokens=self.turn_tokens,
            context_tokens=self.context_tokens,
            format=tuple(self.given(FORMAT_OPTIONS).items()),
            device=self.device,
            dtype=self.dtype,
        )
        model = parse_agent(self.policy)
        policy = policy_options(common, model)
        workers = default_workers(self.device) if self.workers is None else self.workers
        pool = stack.enter_context(WorkerPool(workers)) if workers != 1 else None
        third_party = AgentOptions(
            concurrency=self.concurrency,
            on_error=self.on_agent_error,
            turn_timeout_s=self.turn_timeout,
            isolate=self.isolate,
        )
        players: list[Player] = []
        made = itertools.chain(
            (
                make_player(
                    agent, policy=policy, common=common, model=model, pool=pool, third_party=third_party, seed=self.seed
                )
                for agent in agents
            ),
            (make_tool_player(agent, third_party) for agent in tool_agents),
        )
        for player in made:
            stack.callback(player.close)
            player.check()
            if player.name in [other.name for other in players]:
                raise ConfigError(f"two agents are called {player.name!r}; rename one of them with LABEL=...")
            players.append(player)
        return players

    # Any: `make_rules` checks its arguments
    def make_rules(self, **more: Any) -> Rules:
        """The rules for agents without their own; `more` are further arguments of `make_rules`.

        Raises:
            ConfigError: an option is invalid.
        """
        return make_rules(**self.given(RULE_OPTIONS), **more)

    def play_settings(self, rules: Rules) -> dict[str, Any]:
        """The options that decide what is played; an earlier run is only continued if they are the same.

        What a policy plays by, where its card differs from these rules, is in its own record (`player_identity`).
        """
        names = ("dataset", "on_bad_row", "columns", "seed", "temperature", "top_p", "turn_tokens")
        settings = {name: getattr(self, name) for name in names}
        settings |= {"protocol": self.protocol or rules.protocol.name}
        settings |= {"max_turns": rules.max_turns, "top_k": rules.top_k}
        return settings | ({"world": asdict(self.world)} if includes_world(self.dataset) else {})
