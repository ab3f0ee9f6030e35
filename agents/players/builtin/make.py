"""Every built-in player by name, and the function that makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from zerosearch_env.errors import ConfigError, unknown_name
from zerosearch_env.llm.backend import Backend
from zerosearch_env.llm.local.backend import TransformersBackend
from zerosearch_env.llm.make import make_backend

from ...config.agent import RULE_OPTIONS
from ...config.vllm import parse_sampler
from ...policy.card import AgentCard, changed_card, read_card
from ...policy.files import check_complete
from ..base import AgentOptions, Player, PolicyOptions
from ..endpoint import EndpointPlayer, endpoint_backend
from ..policy import PolicyPlayer
from ..spec import source_kind
from .own_format import DirectPlayer, OwnQueryRagPlayer, RagPlayer
from .plans import PLANS
from .prompted import PromptedPlayer, PromptOptions
from .scripted import OraclePlayer, RandomPlayer

if TYPE_CHECKING:
    from ...processes.pool import WorkerPool

IN_OWN_FORMAT: dict[str, type[PolicyPlayer]] = {
    "direct": DirectPlayer,
    "rag": RagPlayer,
    "rag-own": OwnQueryRagPlayer,
}
"""The players that sample from a policy in its own format, by name."""

WITH_MODEL = tuple(dict.fromkeys((*IN_OWN_FORMAT, *PLANS)))
"""The names of the players that use a model."""

BASELINES = (*WITH_MODEL, "random", "oracle")
"""The name of every built-in player."""

_APPLIED = {*RULE_OPTIONS, "system", "turn_tokens"} - {"prompt_template"}
"""Entries of a card that apply to a model that is asked in plain words."""
_APPLIED_TO_ENDPOINTS = _APPLIED | {"chat", "thinking"}


def make_builtin(
    name: str,
    *,
    label: str,
    policy: PolicyOptions,
    own: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, str] | None = None,
    pool: WorkerPool | None = None,
    third_party: AgentOptions | None = None,
    seed: int = 0,
) -> Player:
    """Makes a built-in player.

    `direct` and `rag` of a model that has a card, or a `protocol` among its options, play in the model's own format.
    Other models are asked in plain words.

    Args:
        name: one of `BASELINES`.
        label: its name in results.
        policy: the model that it uses, if it uses one; its path may also be `"openai:..."` or `"vllm:..."`.
        own: entries of the card that were given for this model or player, not for all of the command.
        endpoint: `api_key_env`, for a model behind an endpoint.
        pool: worker processes for players that use a policy in its own format.
        third_party: what follows a failed completion; for an endpoint also concurrency and time limit.
        seed: seed of the random player.

    Raises:
        ConfigError: there is no such player; the message suggests the nearest name. Or the model cannot be used for
            it, or has an option that would have no effect.
        CheckpointError: the model's folder is incomplete or damaged.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    if name == "random":
        return RandomPlayer(seed=seed, name=label)
    if name == "oracle":
        return OraclePlayer(name=label)
    own = own or {}
    is_folder = source_kind(policy.path) not in ("openai", "vllm")
    if name not in PLANS and not is_folder:
        raise ConfigError(
            f"agent {label!r}: baseline:{name} plays in the own format of a policy, which must be a folder or a name "
            f"on the hub; other models have {', '.join(f'baseline:{plan}' for plan in PLANS)}"
        )
    if name not in PLANS or (name in IN_OWN_FORMAT and is_folder and (read_card(policy.path) or own.get("protocol"))):
        return IN_OWN_FORMAT[name](policy, name=label, pool=pool)
    address = _address(policy.path)
    applied = _APPLIED if address is None else _APPLIED_TO_ENDPOINTS
    if unused := [option for option in own if option not in applied]:
        raise ConfigError(
            f"agent {label!r}: {unused[0]} has no effect on baseline:{name}, which asks the model in its own words; "
            f"it has the options {', '.join(sorted(applied))}, temperature and top_p"
        )
    if "cache" in (endpoint or {}):
        raise ConfigError(
            f"agent {label!r}: cache is not an option of baseline:{name}, which asks nothing twice in one command; "
            "leave it out"
        )
    card = changed_card(AgentCard(), {option: value for option, value in policy.format if option in applied})
    card = replace(card, chat=card.chat is not False)
    options = PromptOptions(
        temperature=policy.temperature,
        top_p=policy.top_p,
        turn_tokens=policy.turn_tokens,
        system=card.system,
        chat=bool(card.chat),
        thinking=card.thinking,
        rules={option: value for option, value in policy.rules if option in applied},
    )
    failures = third_party or AgentOptions()
    backend = (
        _shared_backend(policy)
        if address is None
        else endpoint_backend(
            address,
            card,
            concurrency=failures.concurrency or EndpointPlayer.default_concurrency,
            timeout_s=failures.turn_timeout_s,
            **(endpoint or {}),
        )
    )
    batch = policy.slots if isinstance(backend, TransformersBackend) else None
    return PromptedPlayer(name, backend, name=label, options=options, failures=failures, batch=batch)


def _address(path: str) -> str | None:
    """The endpoint that a policy's path names, as `"openai:URL[,URL...][#MODEL]"`; None if it names none."""
    kind, _, what = path.partition(":")
    if kind == "vllm" and what.startswith(("http://", "https://")):
        # After "#" there is a tokenizer, which is not needed here.
        return "openai:" + ",".join(f"{url}/v1" for url in parse_sampler(path.partition("#")[0]).urls)
    return path if kind == "openai" else None


def _shared_backend(policy: PolicyOptions) -> Backend:
    """The backend of a model in this process. Players of the same model share one, so that it is loaded once."""
    source = policy.path
    given: dict[str, Any] = {}
    if not source.startswith("vllm:"):
        check_complete(Path(source))
        source = f"hf:{source}"
        given = {"device": policy.device, "dtype": policy.dtype, "max_batch": policy.slots}
    key = (source, *given.values())
    backend = _shared.get(key)
    if backend is None or backend.closed:
        backend = _shared[key] = make_backend(source, **given)
    return backend


_shared: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
