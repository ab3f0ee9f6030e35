"""vLLM as the sampler of a policy, with exact tokens: `vllm:URL[,URL...][#TOKENIZER]` or `vllm:MODEL`.

Prompts and turns are token ids, not text, so a model is asked exactly as `PolicyPlayer` asks one in this process: its
card, its chat template, BOS, the tokens that it has written. Only the sampler is another one: that of a training with
`rollout.sampler = "vllm"`, on servers or in this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from zerosearch_env.engines.base import SearchEngine
from zerosearch_env.errors import AgentError, ConfigError, TrainingError, require
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, changed_rules
from zerosearch_env.llm.make import make_endpoint
from zerosearch_env.llm.openai import Model
from zerosearch_env.privacy import redact
from zerosearch_env.protocols import Protocol

from ..config.vllm import VLLMConfig, parse_sampler
from ..policy.card import card_notes, model_context, token_limits
from ..policy.files import check_complete, is_hub_name, policy_path
from .base import OnDone, PolicyOptions
from .endpoint import TIMEOUT_S
from .policy import PolicyPlayer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..sampling.engine import TurnEngine, TurnLimits
    from ..sampling.protocol import TurnSampler


class VLLMPlayer(PolicyPlayer):
    """Plays with a policy that vLLM samples; see the module docstring.

    A server that fails for good ends the evaluation; continued, it plays the rest.

    Args:
        options: the folder with tokenizer, configuration and card, and for an engine in this process the weights.
            `slots` is the number of turns in progress.
        name: name in results.
        urls: addresses of servers, without "/v1"; none: an engine in this process.
        model: what the servers list about their model; see `OpenAIBackend.check`.
        timeout_s: limit of a turn on a server, in seconds.
    """

    def __init__(
        self,
        options: PolicyOptions,
        *,
        name: str,
        urls: Sequence[str] = (),
        model: Model | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        super().__init__(options, name=name)
        self.urls, self.model = tuple(urls), dict(model or {})
        self._timeout_s = timeout_s
        self._engines: dict[TurnLimits, TurnEngine] = {}

    @property
    def identity(self) -> dict[str, str]:
        """See `Player.identity`: in addition to a policy's, what the servers say about their model."""
        model = {field: self.model[field] for field in ("id", "root") if field in self.model}
        return {**super().identity, "model": json.dumps(model)}

    @property
    def remembers(self) -> bool:
        """See `PolicyPlayer.remembers`: no, because vLLM has a prefix cache, and a server may change its model."""
        return False

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer in the policy's folder."""
        from ..policy.policy import load_tokenizer

        return load_tokenizer(self.options.path)

    def check(self) -> None:
        """See `Player.check`; with servers the folder needs no weights."""
        if not self.urls:
            check_complete(Path(self.options.path))

    def notes(self, rules: Rules) -> list[str]:
        """See `Player.notes`."""
        return card_notes(self.name, self.options.path, self.card, changed_rules(rules, dict(self.options.rules)))

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`.

        Raises:
            AgentError: vLLM failed.
        """
        try:
            super().play(episodes, engine, on_done)
        except TrainingError as cause:
            raise AgentError(f"agent {self.name!r}: {cause}") from cause

    def close(self) -> None:
        """See `Player.close`."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def make_sampler(self, rows: int, protocol: Protocol, stop_strings: Sequence[str] | None = None) -> TurnSampler:
        """See `PolicyPlayer.make_sampler`."""
        from zerosearch_env.llm.chat import end_ids

        from ..sampling.engine import EngineSampler, TurnLimits

        transformers, path = require("transformers"), self.options.path
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        generation = None
        if (Path(path) / "generation_config.json").is_file():
            generation = transformers.GenerationConfig.from_pretrained(path, local_files_only=True)
        size = int(config.get_text_config().vocab_size)
        described = SimpleNamespace(config=config, generation_config=generation)
        ends = tuple(sorted(end_ids(described, self.tokenizer, size)))
        bounds = [bound for bound in (model_context(config), self.model.get("max_model_len")) if bound is not None]
        tokens = token_limits(self.card, protocol, min(bounds, default=None))
        stops = protocol.stop_strings if stop_strings is None else tuple(stop_strings)
        limits = TurnLimits(stops, ends, self.options.temperature, self.options.top_p)
        if limits not in self._engines:
            self.close()  # one engine in this process at a time
            self._engines[limits] = self._start(limits, tokens.context_tokens)
        return EngineSampler(
            self._engines[limits],
            self.tokenizer,
            size,
            limits,
            context_tokens=tokens.context_tokens,
            turn_tokens=tokens.turn_tokens,
        )

    def _start(self, limits: TurnLimits, context_tokens: int) -> TurnEngine:
        if self.urls:
            from ..sampling.vllm.server import VLLMServers

            return VLLMServers(self.urls, limits, sync=None, concurrency=self.options.slots, timeout_s=self._timeout_s)
        from ..sampling.vllm.local import VLLMEngine

        dtype = None if self.options.dtype == "auto" else self.options.dtype
        return VLLMEngine(
            Path(self.options.path),
            None,
            limits,
            context_tokens=context_tokens,
            slots=self.options.slots,
            options=VLLMConfig(dtype=dtype),
        )


def make_vllm_player(what: str, options: PolicyOptions, *, name: str, timeout_s: float = TIMEOUT_S) -> VLLMPlayer:
    """Make the player of `vllm:WHAT`.

    Args:
        what: `"URL[,URL...][#TOKENIZER]"`, or a folder or a name on the hub for an engine in this process.
        options: how it is sampled; the path is found here.
        name: name in results.
        timeout_s: limit of a turn on a server, in seconds.

    Raises:
        ConfigError: a server cannot be reached, or the tokenizer of its model cannot be read here.
    """
    if not what.startswith(("http://", "https://")):
        return VLLMPlayer(replace(options, path=str(policy_path(what))), name=name)
    addresses, _, tokenizer = what.partition("#")
    urls = parse_sampler(f"vllm:{addresses}").urls
    backend = make_endpoint(",".join(f"{url}/v1" for url in urls), api="completions")
    try:
        model = backend.check()
    except ConfigError as cause:
        raise ConfigError(f"agent {name!r}: {cause}") from cause
    finally:
        backend.close()
    root = tokenizer or str(model.get("root") or model.get("id") or "")
    if not root or not (Path(root).is_dir() or is_hub_name(root)):
        raise ConfigError(
            f"agent {name!r}: {redact(addresses)} serves a model from {root!r}, which is neither a folder here nor a "
            "name on the Hugging Face Hub. Its tokenizer is needed here: give the folder or the name, as in "
            "vllm:URL#TOKENIZER"
        )
    path = str(policy_path(root, weights=False))
    return VLLMPlayer(replace(options, path=path), name=name, urls=urls, model=model, timeout_s=timeout_s)
