"""Check that sampler and learner agree: compare their log-probabilities on a few turns."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zerosearch_env.errors import TrainingError

from .engine import EngineSampler
from .protocol import TurnSample

TOKENS = 24
"""Tokens sampled after each prompt."""


@dataclass(frozen=True)
class Gap:
    """Differences |log p (sampler) - log p (learner)| over the tokens of some turns."""

    mean: float
    largest: float
    tokens: int


@torch.no_grad()
def measure_gap(
    sampler: EngineSampler, model: torch.nn.Module, prompts: Sequence[Sequence[int]], temperature: float
) -> Gap:
    """Sample one short turn after each prompt and recompute its log-probabilities with the learner's model.

    Args:
        sampler: a sampler without turns in progress.
        model: the learner's model, with the weights that the sampler should have.
        prompts: token ids of at least one prompt, each shorter than the context.
        temperature: sampling temperature.

    Raises:
        TrainingError: if the sampler failed.
    """
    keys = [("agreement", number) for number in range(len(prompts))]
    for number, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
        sampler.start(key, prompt, seed=number, turn_tokens=min(TOKENS, sampler.turn_tokens))
    try:
        samples: dict[Hashable, TurnSample] = {}
        while len(samples) < len(keys):
            samples |= {sample.key: sample for sample in sampler.run(len(keys) - len(samples))}
    finally:
        for key in keys:
            sampler.finish(key)
    device = next(model.parameters()).device
    differences = []
    for key, prompt in zip(keys, prompts, strict=True):
        sample = samples[key]
        ids = torch.tensor([[*prompt, *sample.token_ids]], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        expected = (logits / temperature).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu().numpy()
        differences.append(np.abs(np.array(sample.logprobs) - expected))
    flat = np.concatenate(differences)
    return Gap(float(flat.mean()), float(flat.max()), len(flat))


def check_gap(gap: Gap, limit: float, when: str) -> None:
    """Reject a sampler with log-probabilities that differ from the learner's.

    Raises:
        TrainingError: if the mean difference is above the limit.
    """
    if not gap.mean <= limit:  # a NaN is refused too
        raise TrainingError(
            f"{when} the sampler's log-probabilities differ from the learner's by {gap.mean:.3g} on average (at most "
            f"{gap.largest:.3g}, {gap.tokens} tokens); vllm.logprob_gap allows a mean of {limit:g}. Causes: servers "
            "without --logprobs-mode processed_logprobs (at a temperature other than 1); servers with another model; "
            "servers on a CPU, with a tied head, without --worker-extension-cls "
            "zerosearch_agents.sampling.vllm.worker.LearnerWeights; "
            "number types that are too coarse."
        )
