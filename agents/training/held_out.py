"""Evaluations during training: greedy episodes on questions that are not trained on.

They change nothing of the training. Questions and noise are functions of the run's seed, and the same in every
evaluation, so the curve of a run compares like with like.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zerosearch_env.datasets import named_sources
from zerosearch_env.engines import SearchEngine, make_engine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.engines.registry import searches_dataset
from zerosearch_env.errors import ConfigError, DataError
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.noise_kinds import NoiseMixture, read_mixture, read_noise_kinds
from zerosearch_env.game.rules import Rules
from zerosearch_env.llm.chat_format import PromptFormat
from zerosearch_env.randomness import mix
from zerosearch_env.types import Dataset, Question

from ..config.train import TrainConfig
from ..policy.policy import Policy
from ..processes.workers import Workers
from ..rollouts.rollout import Rollout, rollout
from ..runs.metrics import BEST_METRIC, rollout_metrics
from ..sampling.protocol import TurnSampler

_log = logging.getLogger(__name__)
_CHOICE, _EPISODE = 6, 7
"""Random streams of the run's seed (others: `curriculum`, `alarms`)."""
_MEASURED = ("em", "searches", "invalid_rate", "misled", "abstained", "hallucinated")


@dataclass(frozen=True)
class HeldOut:
    """The questions of a run's evaluations, and how they are played."""

    dataset: Dataset
    """Only the questions that are played."""
    engine: SearchEngine
    owns_engine: bool
    """Whether the engine was made for the evaluations; otherwise it is the one of the training."""
    levels: tuple[float, ...]
    """Noise levels."""
    kinds: NoiseMixture
    """What noisy searches return."""
    seed: int

    def close(self) -> None:
        """Close the engine, if it was made for the evaluations."""
        if self.owns_engine:
            self.engine.close()


@dataclass(frozen=True)
class HeldOutResult:
    """The result of one evaluation."""

    metrics: dict[str, float]
    """`docs/metrics.md` defines them."""
    episodes: list[Episode]
    """The episodes that this process has played, in the order of questions, then of levels."""


def split_held_out(config: TrainConfig, dataset: Dataset, *, given: bool) -> tuple[Dataset, Dataset | None]:
    """The training questions and the held-out ones (None without evaluations).

    Args:
        config: the run's configuration.
        dataset: the training questions.
        given: whether `dataset` is an object of the caller, which `config.data` does not describe.

    Raises:
        ConfigError: there are too few questions to hold some out.
        DataError: the dataset of the evaluations cannot be read.
    """
    settings = config.evaluation
    if settings.every is None:
        return dataset, None
    other = _other_questions(config, given=given)
    if other is None:
        order = _order(len(dataset.questions), config.seed)
        if len(order) <= settings.questions:
            raise ConfigError(
                f"the dataset {dataset.name} has {len(order)} questions, of which evaluation.questions "
                f"({settings.questions}) are held out: none is left to train on. Hold out fewer, or give "
                "evaluation.dataset."
            )
        held, kept = sorted(order[: settings.questions]), sorted(order[settings.questions :])
        _log.info("held out: %d of %d questions of %s are not trained on", len(held), len(order), dataset.name)
        return _only(dataset, kept), _only(dataset, held)
    trained = {question.text for question in dataset.questions}
    unseen = [index for index, question in enumerate(other.questions) if question.text not in trained]
    if not unseen:
        raise ConfigError(
            f"all questions of {other.name} ({other.split}) are training questions: give another evaluation.dataset."
        )
    order = _order(len(unseen), config.seed)[: settings.questions]
    _log.info("held out: %d of %d questions of %s (%s)", len(order), len(unseen), other.name, other.split)
    return dataset, _only(other, sorted(unseen[place] for place in order))


def _other_questions(config: TrainConfig, *, given: bool) -> Dataset | None:
    """The dataset of the evaluations; None if the questions must be taken out of the training questions."""
    data, settings = config.data, config.evaluation
    if settings.dataset is not None:
        return data.load(settings.dataset, settings.split, world=data.world)
    # For a single file the split is only a label: under any name it has the same questions.
    single = any(Path(part.name).expanduser().is_file() for part in named_sources(data.dataset) or ())
    if given or single or settings.split == data.split:
        return None
    with contextlib.suppress(DataError):
        return data.load(data.dataset, settings.split, world=data.world)
    return None


def _order(count: int, seed: int) -> list[int]:
    """The order in which questions are held out."""
    return sorted(range(count), key=lambda index: mix(seed, _CHOICE, index))


def _only(dataset: Dataset, chosen: Sequence[int]) -> Dataset:
    return replace(dataset, questions=[dataset.questions[index] for index in chosen])


def make_held_out(
    config: TrainConfig, dataset: Dataset | None, engine: SearchEngine, trained: Dataset, *, given: bool
) -> HeldOut | None:
    """What the evaluations of a run need; None without evaluations.

    Held-out questions that come with passages of their own, as those of the world do, are searched in these.

    Args:
        config: the run's configuration.
        dataset: the held-out questions, from `split_held_out`.
        engine: the engine of the training, before `add_noise_kinds`.
        trained: the training questions.
        given: whether the caller has given the engine.
    """
    if dataset is None:
        return None
    spec = config.environment.search_engine
    other = dataset.passages is not None and dataset.passages is not trained.passages
    own = other and not given and searches_dataset(spec)
    searched = make_engine(spec, dataset=dataset) if own else engine
    kinds = read_mixture(config.evaluation.noise_kind)
    noisy = add_noise_kinds(searched, read_noise_kinds(kinds), dataset.questions)
    return HeldOut(dataset, noisy, own, config.evaluation.noise, kinds, config.seed)


def is_due(config: TrainConfig, step: int) -> bool:
    """Whether there is an evaluation after `step` finished steps."""
    every = config.evaluation.every
    return every is not None and (step % every == 0 or step == config.steps)


def play_held_out(
    held_out: HeldOut, rules: Rules, sampler: TurnSampler, policy: Policy, workers: Workers
) -> HeldOutResult:
    """Play every question at every noise level with greedy decoding; each worker plays its share.

    All workers must call it together, and all get the same metrics. Searches of a question draw the same numbers at
    every level, so a search that is noisy at one level is noisy at every higher one.

    Args:
        held_out: the questions.
        rules: the rules of the training.
        sampler: the sampler of the training, without rows.
        policy: its tokenizer and card.
        workers: all workers.
    """
    began = time.perf_counter()
    questions: Sequence[Question] = held_out.dataset.questions
    mine = [(index, level) for index in range(workers.rank, len(questions), workers.size) for level in held_out.levels]
    episodes = [
        Episode(
            questions[index],
            rules,
            noise_level=level,
            noise_kinds=held_out.kinds,
            seed=mix(held_out.seed, _EPISODE, index),
        )
        for index, level in mine
    ]
    with sampler.greedy():
        played = _play(episodes, held_out.engine, sampler, policy, policy.card.format)
    at: dict[tuple[int, float], Rollout] = {}
    for theirs in workers.gather(dict(zip(mine, (replace(one, episode=None) for one in played), strict=True))):
        at |= theirs
    metrics: dict[str, float] = {}
    for level in held_out.levels:
        measured = rollout_metrics([[at[index, level] for index in range(len(questions))]])
        metrics |= {f"held_out_{name}_{level:g}": measured[name] for name in _MEASURED if name in measured}
        if failures := measured["engine_failures"]:
            metrics["held_out_failures"] = metrics.get("held_out_failures", 0.0) + failures
    means = [metrics[f"held_out_em_{level:g}"] for level in held_out.levels if f"held_out_em_{level:g}" in metrics]
    if len(means) == len(held_out.levels):
        metrics[BEST_METRIC] = sum(means) / len(means)
    metrics["held_out_questions"] = float(len(questions))
    metrics["held_out_seconds"] = time.perf_counter() - began
    return HeldOutResult(metrics, episodes)


def _play(
    episodes: Sequence[Episode], engine: SearchEngine, sampler: TurnSampler, policy: Policy, format: PromptFormat
) -> list[Rollout]:
    return rollout(episodes, engine, sampler, policy.tokenizer, format=format) if episodes else []


def describe_held_out(metrics: Mapping[str, float], levels: Sequence[float]) -> str:
    """One line about an evaluation, for a terminal."""
    parts = []
    for level in levels:
        em, searches = (metrics.get(f"held_out_{name}_{level:g}") for name in ("em", "searches"))
        if em is not None and searches is not None:
            parts.append(f"{100 * em:.1f} % at noise {level:g} ({searches:.2f} searches)")
    failures = metrics.get("held_out_failures")
    failed = f"; {failures:.0f} episodes failed and do not count" if failures else ""
    return f"held-out EM {', '.join(parts)}{failed}"
