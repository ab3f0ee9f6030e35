"""Make the sampler that a configuration specifies."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.chat import end_ids
from zerosearch_env.llm.http.loop import LoopThread

from ..config.train import TrainConfig
from ..config.vllm import parse_sampler
from ..policy.card import TokenLimits
from ..policy.files import policy_path
from ..policy.policy import Policy
from ..processes.workers import Workers
from .checks import Gap, check_gap, measure_gap
from .engine import EngineSampler, TurnEngine, TurnLimits
from .local import Sampler
from .protocol import TurnSampler

_log = logging.getLogger(__name__)
CHECK_PROMPTS = 8
"""Number of prompts for checking log-probabilities; every server gets some of them."""
TRIAL_FACTOR = 1.5
"""Factor applied to the head's weights to test that changed weights reach the engine."""
SYNC_FOLDER = "sync"
"""Subfolder of the run directory with the weights for servers."""


class CheckedSampler(EngineSampler):
    """A sampler on an engine that compares the engine's log-probabilities with the learner's.

    It compares them at the start, after a trial change of the weights, and after their first update: an engine may
    start with the right weights and still fail to load new ones.

    Args:
        engine: the engine that samples.
        policy: the learner's policy.
        limits: how the engine samples.
        tokens: the run's token limits.
        prompts: token ids for the checks.
        limit: maximum mean difference of log-probabilities.
        workers: the learner's processes, which run the checks together.
    """

    def __init__(
        self,
        engine: TurnEngine,
        policy: Policy,
        limits: TurnLimits,
        tokens: TokenLimits,
        *,
        prompts: Sequence[Sequence[int]],
        limit: float,
        workers: Workers | None = None,
    ) -> None:
        model = policy.model
        super().__init__(
            engine,
            policy.tokenizer,
            vocab_size(policy),
            limits,
            context_tokens=tokens.context_tokens,
            turn_tokens=tokens.turn_tokens,
        )
        self._model = model
        self._temperature = limits.temperature
        self._prompts = [list(prompt)[: tokens.context_tokens - 1] for prompt in prompts]
        self._limit = limit
        self._workers = workers or Workers()
        self._unchecked = False
        self._start()
        self._unchecked = True

    def _after_load(self) -> None:
        """Check the first update, whatever is in progress, because all workers must run the check together."""
        if self._unchecked:
            check_gap(self._gap(), self._limit, "after the first update of the weights")
            self._unchecked = False

    def _start(self) -> None:
        gap = self._gap()
        if not gap.mean <= self._limit:
            # A server may still have the weights of an earlier run.
            _log.warning("the sampler's weights differ from the learner's (gap %.3g): sending them", gap.mean)
            self.refresh(0)
            gap = self._gap()
        check_gap(gap, self._limit, "at the start")
        self._try_other_weights()

    @torch.no_grad()
    def _try_other_weights(self) -> None:
        """Send weights with a scaled head, then the original ones.

        This reveals immediately a sync that loses the head. The small first updates would hide it until the weights
        had drifted apart.
        """
        weight = self._model.get_output_embeddings().weight
        before = weight.detach().clone()
        weight.mul_(TRIAL_FACTOR)
        try:
            self.refresh(0)
            gap = self._gap()
        finally:
            weight.copy_(before)
        self.refresh(0)
        check_gap(gap, self._limit, "after a trial change of the weights")

    def _gap(self) -> Gap:
        """The largest gap of all workers; no worker continues and changes weights while another is still sampling."""
        gap = measure_gap(self, self._model, self._prompts, self._temperature)
        return max(self._workers.gather(gap), key=lambda gap: (math.isnan(gap.mean), gap.mean))


def make_sampler(
    config: TrainConfig,
    policy: Policy,
    workers: Workers,
    *,
    tokens: TokenLimits,
    stop_strings: Sequence[str],
    prompts: Sequence[Sequence[int]],
) -> TurnSampler:
    """Make the sampler specified by `rollout.sampler`.

    Args:
        config: the run's configuration.
        policy: the learner's policy.
        workers: the learner's processes.
        tokens: the run's token limits.
        stop_strings: a turn ends after the token that completes one of them.
        prompts: token ids for checking an engine; the same in all processes.

    Raises:
        ConfigError: if the sampler cannot be used with this configuration.
        TrainingError: if its log-probabilities differ from the learner's.
    """
    settings, options = config.rollout, config.vllm
    choice = parse_sampler(settings.sampler)
    slots = share_slots(config, workers)
    if choice.kind == "local":
        return Sampler(
            policy.model,
            policy.tokenizer,
            slots=slots,
            context_tokens=tokens.context_tokens,
            stop_strings=stop_strings,
            temperature=settings.temperature,
            turn_tokens=tokens.turn_tokens,
        )
    ends = tuple(sorted(end_ids(policy.model, policy.tokenizer, vocab_size(policy))))
    limits = TurnLimits(tuple(stop_strings), ends, settings.temperature)
    engine: TurnEngine
    if choice.urls:
        from .vllm.server import VLLMServers
        from .vllm.sync import BroadcastSync, FolderSync, WeightSync

        folder = Path(options.sync_folder) if options.sync_folder else Path(config.output) / SYNC_FOLDER

        def make_sync(name: str, loop: LoopThread) -> WeightSync:
            if options.sync == "folder":
                return FolderSync(policy.model, folder / name)
            address, timeout_s = options.sync_address, options.timeout_s
            return BroadcastSync(policy.model, loop, address=address, timeout_s=timeout_s)

        engine = VLLMServers(
            choice.urls,
            limits,
            sync=make_sync,
            concurrency=slots,
            timeout_s=options.timeout_s,
            workers=workers,
        )
    else:
        from .vllm.local import VLLMEngine

        if workers.size > 1:
            raise ConfigError('rollout.sampler = "vllm" needs workers = 1; several processes can share servers.')
        engine = VLLMEngine(
            policy_path(config.policy),
            policy.model,
            limits,
            context_tokens=tokens.context_tokens,
            slots=slots,
            options=options,
        )
    try:
        return CheckedSampler(
            engine, policy, limits, tokens, prompts=prompts, limit=options.logprob_gap, workers=workers
        )
    except BaseException:
        engine.close()
        raise


def share_slots(config: TrainConfig, workers: Workers) -> int:
    """Maximum episodes that one worker plays in parallel: its share of a step, limited by `rollout.slots`."""
    settings = config.rollout
    return min(settings.slots, -(-settings.prompts // workers.size) * settings.group_size)


def vocab_size(policy: Policy) -> int:
    """Number of token ids of the model."""
    weight = policy.model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return int(weight.shape[0])


def sampler_workers(config: TrainConfig) -> int | None:
    """Number of processes the sampler requires, or None if any will do. An in-process engine needs exactly one."""
    choice = parse_sampler(config.rollout.sampler)
    return 1 if choice.kind == "vllm" and not choice.urls else None
