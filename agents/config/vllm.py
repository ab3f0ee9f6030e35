"""The choice of sampler, and the options of vLLM as a sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.http.options import check_url


@dataclass(frozen=True)
class VLLMConfig:
    """Options of vLLM when it is the sampler (`rollout.sampler`)."""

    dtype: str | None = None
    """Weight type of an engine in this process, such as "bfloat16"; unset: the learner's type."""
    gpu_memory: float = 0.4
    """Fraction of the GPU's memory that an engine in this process uses, in (0, 1]."""
    eager: bool = False
    """Run an engine in this process without compilation: it starts faster and decodes slower."""
    sync: Literal["folder", "nccl"] = "folder"
    """How servers get weights: "folder", as files; "nccl", from GPU to GPU with vLLM's weight transfer."""
    sync_folder: str | None = None
    """Folder of the weights for servers, visible to them under the same path; unset: "sync" in the run directory."""
    sync_address: str | None = None
    """Address at which servers reach this machine for "nccl"; unset: the local address that routes to the server."""
    timeout_s: float = 600.0
    """Timeout for a turn or for loading weights on a server, in seconds."""
    logprob_gap: float = 0.05
    """Maximum mean |log p (engine) - log p (learner)| over tokens, checked at the start and after a weight sync."""


@dataclass(frozen=True)
class SamplerChoice:
    """A parsed `rollout.sampler`."""

    kind: str
    """"local" or "vllm"."""
    urls: tuple[str, ...] = ()
    """Addresses of vLLM servers, without "/v1"; empty: an engine in this process."""


def parse_sampler(text: str) -> SamplerChoice:
    """Parse a sampler specification.

    Args:
        text: "local"; "vllm" for an engine in this process; "vllm:URL" or "vllm:URL,URL" for servers.

    Raises:
        ConfigError: if the string is anything else.
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
    """Check that rollouts of this sampler may run ahead by this many steps.

    Raises:
        ConfigError: if it is not an integer of at least 0, or the engine must free its memory for each update.
    """
    choice = parse_sampler(sampler)
    if type(max_staleness) is not int or max_staleness < 0:
        raise ConfigError(f"rollout.max_staleness must be a whole number of 0 or more, got {max_staleness!r}.")
    if max_staleness and choice.kind == "vllm" and not choice.urls:
        raise ConfigError(
            f'rollout.max_staleness = {max_staleness} with rollout.sampler = "vllm": an engine in this process frees '
            "its memory for each update and loses the turns in progress. Set max_staleness = 0, or start vLLM as a "
            'server and give its address: rollout.sampler = "vllm:http://127.0.0.1:8000".'
        )
