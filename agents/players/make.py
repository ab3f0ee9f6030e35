"""Builds players, that is, objects that play episodes.

    PolicyPlayer      a policy directory, batched over all episodes, in one process or several
    CallablePlayer    any third-party `module:callable` (`third_party.py`)
    ToolAgentPlayer   a third-party `module:callable` that owns its loop (`tool_agents.py`)
    baselines         direct answer, one-search RAG, random, oracle (`baselines.py`)

`make_player` and `make_tool_player` build one from its command-line spec.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.errors import ConfigError, unknown_name

from ..policy.files import policy_path
from .base import Player, PolicyOptions
from .baselines import BASELINES, BUILT_ON_POLICY, OraclePlayer, RandomPlayer
from .policy import PolicyPlayer
from .third_party import AgentOptions, CallablePlayer
from .tool_agents import ToolAgentPlayer

if TYPE_CHECKING:
    from ..processes.pool import WorkerPool


def make_player(
    spec: str,
    *,
    policy: PolicyOptions,
    pool: WorkerPool | None = None,
    third_party: AgentOptions | None = None,
    seed: int = 0,
) -> Player:
    """Builds a player from its command-line spec.

    Args:
        spec: a policy directory, `"tiny"` (the shipped base model), `"module:callable"`, or `"baseline:NAME"`. With
            the prefix `"LABEL="` the player is called LABEL in results.
        policy: options of policies; its path is the model used by `direct`, `rag` and `rag-own`.
        pool: worker processes for players that use a policy.
        third_party: how a third-party agent is played.
        seed: seed of the random baseline.

    Raises:
        ConfigError: the spec matches nothing; the message suggests the nearest name.
    """
    name, spec = _name_and_source(spec)
    if spec == "tiny":
        return PolicyPlayer(replace(policy, path=str(policy_path(spec))), name=name, pool=pool)
    if Path(spec).is_dir():
        return PolicyPlayer(replace(policy, path=spec), name=name, pool=pool)
    head, colon, tail = spec.partition(":")
    if colon and head == "baseline":
        if tail not in BASELINES:
            raise unknown_name("baseline", tail, BASELINES)
        if tail == "random":
            return RandomPlayer(seed=seed, name=name)
        if tail == "oracle":
            return OraclePlayer(name=name)
        return BUILT_ON_POLICY[tail](policy, name=name, pool=pool)
    if colon:
        return CallablePlayer(spec, name=name, options=third_party)
    if spec in BASELINES:
        raise ConfigError(f"agent {spec!r}: no such directory. Did you mean 'baseline:{spec}'?")
    if spec.endswith(".py"):
        raise ConfigError(f"agent {spec!r} is a file: name its function or class too, for example {spec}:agent")
    raise ConfigError(
        f"agent {spec!r} is not a directory{_near_directory(spec)}. Expected a policy directory (for example "
        f"runs/quickstart/policy), your own file.py:callable or module:callable, or one of: "
        f"{', '.join(f'baseline:{name}' for name in BASELINES)}."
    )


def make_tool_player(spec: str, options: AgentOptions | None = None) -> ToolAgentPlayer:
    """Builds the player of an agent that owns its loop from its command-line spec.

    Args:
        spec: `"module:callable"` or `"file.py:callable"`, with a `"LABEL="` before it if it is to have another name.
        options: how it is played.

    Raises:
        ConfigError: the spec does not lead to a callable.
    """
    name, source = _name_and_source(spec)
    return ToolAgentPlayer(source, name=name, options=options)


def _name_and_source(spec: str) -> tuple[str, str]:
    """The name in results, and the spec without its label."""
    label, equals, rest = spec.partition("=")
    if equals and label and not any(mark in label for mark in ":/\\"):
        return label, rest
    return spec, spec


def _near_directory(spec: str) -> str:
    """A clause that suggests the directory that was probably meant; "" if none is similar."""
    path = Path(spec)
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return ""
    wrong = path.relative_to(existing).parts[0] if existing != Path() else path.parts[0]
    near = difflib.get_close_matches(wrong, [d.name for d in existing.iterdir() if d.is_dir()], n=1, cutoff=0.5)
    return f" (did you mean {str(existing / near[0])!r}?)" if near else ""
