"""Builds players, that is, objects that play episodes.

    PolicyPlayer      a policy directory, batched over all episodes, in one process or several
    EndpointPlayer    a model behind an endpoint, `openai:URL` (`endpoint.py`)
    VLLMPlayer        a policy that vLLM samples, `vllm:URL` or `vllm:MODEL` (`vllm.py`)
    CallablePlayer    any third-party `module:callable` (`third_party.py`)
    MenuPlayer        an agent of Stable-Baselines3, `menu:FILE.zip` (`menu.py`)
    ToolAgentPlayer   a third-party `module:callable` that owns its loop (`tool_agents.py`)
    built-in players  direct answer, RAG, chain of thought, Search-o1, random, oracle and others (`builtin/`)

`make_player` and `make_tool_player` build one from its command-line spec.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.errors import ConfigError
from zerosearch_env.privacy import redact

from ..config.agent import RULE_OPTIONS
from ..policy.card import AgentCard
from ..policy.files import policy_path
from .base import AgentOptions, Player, PolicyOptions
from .builtin.make import BASELINES, WITH_MODEL, make_builtin
from .endpoint import TIMEOUT_S, WITHOUT_EFFECT, EndpointPlayer
from .menu import load_menu_player
from .policy import PolicyPlayer
from .spec import ENDPOINT_OPTIONS, OPTIONS, AgentSpec, parse_agent
from .third_party import CallablePlayer
from .tool_agents import ToolAgentPlayer
from .vllm import make_vllm_player

if TYPE_CHECKING:
    from ..processes.pool import WorkerPool


def make_player(
    agent: str | AgentSpec,
    *,
    policy: PolicyOptions,
    common: PolicyOptions | None = None,
    model: AgentSpec | None = None,
    pool: WorkerPool | None = None,
    third_party: AgentOptions | None = None,
    seed: int = 0,
) -> Player:
    """Builds a player from its command-line spec.

    Args:
        agent: the spec, `[LABEL=]SOURCE[,key=value,...]` (`spec.py`), or the result of `parse_agent`.
        policy: the model used by the built-in players, with its options.
        common: the options of every other policy, whose path is ignored; None: those of `policy`.
        model: the spec of `policy`, if it has one.
        pool: worker processes for players that use a policy.
        third_party: how a third-party agent, or a model behind an endpoint, is played.
        seed: seed of the random baseline.

    Raises:
        ConfigError: the spec matches nothing; the message suggests the nearest name. Or it has an option that such an
            agent does not have.
    """
    spec = parse_agent(agent) if isinstance(agent, str) else agent
    source, name = spec.source, spec.label
    tail = source.partition(":")[2]
    match spec.kind:
        case "tiny" | "folder" | "hub":
            path = policy_path(source)
            if path.is_dir():
                return PolicyPlayer(policy_options(common or policy, spec), name=name, pool=pool)
        case "baseline":
            if tail in WITH_MODEL:
                policy = policy_options(policy, replace(spec, source=policy.path))
            else:
                _check_options(spec, ())
            return make_builtin(
                tail,
                label=name,
                policy=policy,
                own={**(model.card if model else {}), **spec.card},
                endpoint={**(model.endpoint if model else {}), **spec.endpoint},
                pool=pool,
                third_party=third_party,
                seed=seed,
            )
        case "openai":
            own = policy_options(common or policy, spec)
            return EndpointPlayer(source, own, name=name, options=third_party, **spec.endpoint)
        case "vllm":
            limit_s = (third_party or AgentOptions()).turn_timeout_s or TIMEOUT_S
            return make_vllm_player(tail, policy_options(common or policy, spec), name=name, timeout_s=limit_s)
        case "menu":
            _check_options(spec, ())
            return load_menu_player(tail, name=name)
        case "code":
            _check_options(spec, RULE_OPTIONS)
            return CallablePlayer(source, name=name, options=third_party, card=spec.card)
    if source in BASELINES:
        raise ConfigError(f"agent {source!r}: no such directory. Did you mean 'baseline:{source}'?")
    if source.endswith(".py"):
        raise ConfigError(f"agent {source!r} is a file: name its function or class too, for example {source}:agent")
    raise ConfigError(
        f"agent {source!r} is not a directory{_near_directory(source)}. Expected a policy directory (for example "
        f"runs/quickstart/policy), a model on the Hugging Face Hub (ORG/NAME), openai:URL, vllm:URL, menu:FILE.zip, "
        f"your own file.py:callable or module:callable, or one of: "
        f"{', '.join(f'baseline:{name}' for name in BASELINES)}."
    )


def policy_options(common: PolicyOptions, spec: AgentSpec) -> PolicyOptions:
    """The options of a policy, or of a model behind an endpoint: its own, or else the command's.

    Args:
        common: the options of the command; the path is ignored.
        spec: the policy.

    Raises:
        ConfigError: it has an option that would have no effect.
    """
    endpoint = spec.kind == "openai"
    valid = [entry.name for entry in (*fields(AgentCard), *fields(PolicyOptions))]
    _check_options(
        spec, [*(name for name in valid if name not in WITHOUT_EFFECT), *ENDPOINT_OPTIONS] if endpoint else valid
    )
    path = spec.source if spec.kind in ("openai", "vllm") else str(policy_path(spec.source))
    return replace(common, path=path).changed({**spec.card, **spec.sampling})


def _check_options(spec: AgentSpec, valid: Sequence[str]) -> None:
    """Refuse options that would have no effect.

    Raises:
        ConfigError: one of the agent's options is not in `valid`.
    """
    for name in (*spec.card, *spec.sampling, *spec.endpoint):
        if name not in valid:
            offered = ", ".join(option for option in OPTIONS if option in valid) or "none"
            raise ConfigError(
                f"agent {spec.label!r}: {name} is not an option of {redact(spec.source)}; its options are: {offered}"
            )


def make_tool_player(agent: str, options: AgentOptions | None = None) -> ToolAgentPlayer:
    """Builds the player of an agent that owns its loop from its command-line spec.

    Args:
        agent: `"[LABEL=]module:callable"` or `"[LABEL=]file.py:callable"`, with rules of its own after commas.
        options: how it is played.

    Raises:
        ConfigError: the spec does not lead to a callable, or has an option that such an agent does not have.
    """
    spec = parse_agent(agent)
    if spec.kind != "code":
        raise ConfigError(
            f"tool agent {redact(spec.source)!r}: expected your own file.py:callable or module:callable, called as "
            "agent(question, search); give policies, endpoints and baselines with --agent"
        )
    _check_options(spec, RULE_OPTIONS)
    return ToolAgentPlayer(spec.source, name=spec.label, options=options, card=spec.card)


def _near_directory(spec: str) -> str:
    """A clause that suggests the directory that was probably meant; "" if none is similar."""
    path = Path(spec)
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return ""
    wrong = path.relative_to(existing).parts[0] if existing != Path() else path.parts[0]
    near = difflib.get_close_matches(wrong, [d.name for d in existing.iterdir() if d.is_dir()], n=1, cutoff=0.5)
    return f" (did you mean {str(existing / near[0])!r}?)" if near else ""
