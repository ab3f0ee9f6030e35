"""Which sampler a run has, and the options of vLLM as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.http.options import check_url


@dataclass(frozen=True)
class VLLMConfig:
    """vLLM as the sampler (`rollout.sampler`)."""

    dtype: str | None = None
    """Type of the weights of an engine in this process, such as "bfloat16"; unset: the learner's own."""
    gpu_memory: float = 0.4
    """Share of the GPU's memory that an engine in this process takes, in (0, 1]."""
    eager: bool = False
    """Whether an engine in this process does without compilation: it starts faster and decodes slower."""
    sync: Literal["folder", "nccl"] = "folder"
    """How weights get to servers: "folder", as files that they read; "nccl", from GPU to GPU by vLLM's own transfer."""
    sync_folder: str | None = None
    """Folder for the weights that servers read, which must see it under the same name; unset: "sync" in the output."""
    sync_address: str | None = None
    """This machine's address, at which servers meet it for "nccl"; unset: the one on the way to the server."""
    timeout_s: float = 600.0
    """Longest time of one turn, or of one loading of weights, on a server, in seconds."""
    logprob_gap: float = 0.05
    """Largest mean |log p (engine) - log p (learner)| over the tokens of the checks at the start and after a sync."""


@dataclass(frozen=True)
class SamplerChoice:
    """A parsed `rollout.sampler`."""

    kind: str
    """"local", or "vllm"."""
    urls: tuple[str, ...] = ()
    """Addresses of vLLM servers, without "/v1"; none: an engine in this process."""


def parse_sampler(text: str) -> SamplerChoice:
    """The sampler that a text names.

    Args:
        text: "local"; "vllm" for an engine in this process; "vllm:URL" or "vllm:URL,URL" for servers.

    Raises:
        ConfigError: for anything else.
    """
    kind, colon, rest = text.partition(":")
    if kind == "local" and not colon:
        return SamplerChoice("local")
    if kind == "vllm" and not colon:
        return SamplerChoice("vllm")
    if kind == "vllm":
        urls = [check_url(url).removesuffix("/v1") for url in rest.split(",")]
        return SamplerChoice("vllm", tuple(dict.fromkeys(urls)))
    raise ConfigError(
        f'rollout.sampler must be "local", "vllm" (in this process, from the policy\'s own directory) or '
        f'"vllm:URL[,URL...]" (servers), got {text!r}.'
    )


def check_staleness(sampler: str, max_staleness: int) -> None:
    """Whether rollouts of this sampler may run ahead by so many steps.

    Raises:
        ConfigError: for no whole number of at least 0, or an engine that makes way for the update.
    """
    choice = parse_sampler(sampler)
    if type(max_staleness) is not int or max_staleness < 0:
        raise ConfigError(f"rollout.max_staleness must be a whole number of 0 or more, got {max_staleness!r}.")
    if max_staleness and choice.kind == "vllm" and not choice.urls:
        raise ConfigError(
            f'rollout.max_staleness = {max_staleness} with rollout.sampler = "vllm": an engine in this process gives '
            "up its memory, and with it what is in progress, for the update. Set max_staleness = 0, or start vLLM as a "
            'server and give its address: rollout.sampler = "vllm:http://127.0.0.1:8000".'
        )
