"""What the model card of a trained policy says about its run."""

from __future__ import annotations

from collections.abc import Mapping

from zerosearch_env.identity import package_version

from ..config.train import TrainConfig
from ..policy.model_card import Provenance

HELD_OUT = "held_out_"
"""Metrics with this prefix are scores on questions that were not trained on."""
_LABELS = {"em": "Exact match", "searches": "Searches per episode", "invalid_rate": "Share of invalid turns"}


def run_provenance(config: TrainConfig, step: int, metrics: Mapping[str, float]) -> Provenance:
    """Where a policy of a training run comes from.

    Args:
        config: the run's configuration.
        step: steps after which the policy is saved.
        metrics: metrics of the run at that step; those on held-out questions are the policy's scores.
    """
    rollout, curriculum = config.rollout, config.curriculum
    facts = {
        "Method": "reinforcement learning on its own searches",
        "Started from": config.policy,
        "Questions": f"{config.data.dataset} ({config.data.split})",
        "Search engine": config.environment.search_engine,
        "Noise": f"{curriculum.schedule}, from {curriculum.start:g} to {curriculum.end:g}",
        "Reward": config.environment.reward,
        "Advantages": config.algorithm.advantage,
        "Steps": step,
        "Episodes per step": f"{rollout.prompts} questions x {rollout.group_size}",
        "Learning rate": f"{config.optimizer.learning_rate:g}",
        "LoRA rank": config.lora.rank or "none, all weights",
        "Seed": config.seed,
        "Version of zerosearch-env": package_version(),
    }
    return Provenance(config.policy, facts, _scores(metrics))


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics on held-out questions, by names for readers who know nothing of this package."""
    scores = {}
    for name, value in metrics.items():
        metric, _, level = name.removeprefix(HELD_OUT).rpartition("_")
        if name.startswith(HELD_OUT) and metric in _LABELS:
            scores[f"{_LABELS[metric]}, noise {level}"] = value
    return {"Held-out questions": metrics[f"{HELD_OUT}questions"]} | scores if scores else {}
