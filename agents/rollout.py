"""Token-in, token-out rollouts: many episodes at once, each on its own clock.

The ids that the policy sampled are the ids that are trained on, the token that ended the turn included; nothing is
decoded and encoded again. Environment text is tokenised once and appended. The loss mask is born with each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.engines import SearchEngine
from zerosearch_env.episode import Episode
from zerosearch_env.errors import ConfigError
from zerosearch_env.randomness import mix
from zerosearch_env.shell import run_searches
from zerosearch_env.types import Scores, SearchRequest, Step, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .sampler import Sampler, TurnSample

_SAMPLING = 1 << 33  # sampling's own stream: an episode's noise uses (search, document), both far below


@dataclass(frozen=True)
class Rollout:
    """One finished episode as tokens. The three arrays have the same length T and are read-only."""

    token_ids: NDArray[np.int32]
    """Exactly what the sampler saw: prompt, sampled turns and environment text in order, shape `(T,)`."""
    loss_mask: NDArray[np.bool_]
    """True where the policy sampled the token, shape `(T,)`."""
    logprobs: NDArray[np.float32]
    """Log-probability of each sampled token when it was sampled, 0 elsewhere, shape `(T,)`."""
    scores: Scores
    """How the episode was scored."""
    stop_reason: StopReason
    """Why it ended."""
    noise_level: float
    """Probability of a noisy search in it."""
    turns: int
    """Turns taken."""
    invalid_turns: int
    """Turns without a valid action."""
    noisy_searches: int
    """Searches with at least one noisy document."""
    answered_searches: int
    """Searches whose documents held a gold answer."""
    searches_after_noise: int
    """Noisy searches after which the episode searched again."""
    error: str | None = None
    """The engine's failure, where the episode ended by one."""
    episode: Episode | None = None
    """The episode itself; None where the rollout comes from another process."""

    @property
    def sampled_tokens(self) -> int:
        """Tokens that the policy sampled."""
        return int(self.loss_mask.sum())

    @property
    def trainable(self) -> bool:
        """False when it must stay out of the loss: the engine failed, or nothing was sampled."""
        return self.stop_reason is not StopReason.ENGINE_ERROR and bool(self.loss_mask.any())


class _Row:
    """The growing token run of one episode."""

    def __init__(self, episode: Episode, prompt_ids: list[int]) -> None:
        self.episode = episode
        self.token_ids: list[int] = []
        self.loss_mask: list[bool] = []
        self.logprobs: list[float] = []
        self.last: Step | None = None
        self.append_environment(prompt_ids)

    def append_environment(self, ids: Sequence[int]) -> None:
        self.token_ids += ids
        self.loss_mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def append_sampled(self, sample: TurnSample) -> None:
        self.token_ids += sample.token_ids
        self.loss_mask += [True] * len(sample.token_ids)
        self.logprobs += sample.logprobs

    def freeze(self) -> Rollout:
        arrays = (
            np.array(self.token_ids, dtype=np.int32),
            np.array(self.loss_mask, dtype=np.bool_),
            np.array(self.logprobs, dtype=np.float32),
        )
        for array in arrays:
            array.setflags(write=False)
        steps = [turn.step for turn in self.episode.turns]
        last = self.last
        assert last is not None
        assert last.scores is not None
        assert last.stop_reason is not None
        noisy = [bool(np.any(step.noisy)) for step in steps if step.noisy is not None]
        return Rollout(
            *arrays,
            scores=last.scores,
            stop_reason=last.stop_reason,
            noise_level=self.episode.noise_level,
            turns=len(steps),
            invalid_turns=sum(step.action == "invalid" for step in steps),
            noisy_searches=sum(noisy),
            answered_searches=sum(bool(step.answer_in_documents) for step in steps),
            searches_after_noise=sum(noisy[:-1]),
            error=last.error,
            episode=self.episode,
        )


def rollout(
    episodes: Sequence[Episode],
    engine: SearchEngine,
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seeds: Sequence[int] | None = None,
    chat: bool = False,
) -> list[Rollout]:
    """Plays fresh episodes to their end with a sampled policy.

    Each episode goes on as soon as its own turn and its own search are done; the searches that are pending at one
    moment go to the engine in one call. An episode whose search fails is truncated (`StopReason.ENGINE_ERROR`), one
    that outgrows the sampler's context ends with `StopReason.CONTEXT_LIMIT`.

    Args:
        episodes: episodes that have not begun.
        engine: answers the searches.
        sampler: a sampler without rows, which ends turns at the protocol's stop strings.
        tokenizer: tokenises prompts and environment text.
        seeds: 64-bit seed of what each episode samples; None derives it from the episode's own seed.
        chat: whether prompts go through the tokenizer's chat template.

    Returns:
        One rollout an episode, in order.
    """
    if seeds is None:
        seeds = [mix(episode.seed, _SAMPLING) for episode in episodes]
    prompts = encode_prompts([episode.prompt for episode in episodes], tokenizer, chat=chat)
    rows = [_Row(episode, prompt) for episode, prompt in zip(episodes, prompts, strict=True)]
    active = 0
    for key, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
        if len(row.token_ids) >= sampler.context_tokens:
            row.last = row.episode.stop(StopReason.CONTEXT_LIMIT)
            continue
        sampler.start(key, row.token_ids, seed)
        active += 1
    while active:
        waiting: list[tuple[int, Step]] = []
        pending: list[tuple[int, SearchRequest]] = []
        for sample in sampler.run():
            key = cast("int", sample.key)
            row = rows[key]
            row.append_sampled(sample)
            if sample.finish == "context":
                outcome: SearchRequest | Step = row.episode.stop(StopReason.CONTEXT_LIMIT, sample.text)
            else:
                outcome = row.episode.advance(sample.text)
            if isinstance(outcome, SearchRequest):
                pending.append((key, outcome))
            else:
                waiting.append((key, outcome))
        for (key, _), result in zip(pending, run_searches(engine, [request for _, request in pending]), strict=True):
            waiting.append((key, rows[key].episode.observe(result)))
        open_ = [(key, step) for key, step in waiting if not step.done]
        texts = encode_texts([step.observation for _, step in open_], tokenizer)
        for key, step in waiting:
            rows[key].last = step
            if step.done:
                sampler.finish(key)
                active -= 1
        for (key, _), ids in zip(open_, texts, strict=True):
            row = rows[key]
            if len(row.token_ids) + len(ids) >= sampler.context_tokens:
                row.last = row.episode.stop(StopReason.CONTEXT_LIMIT)
                sampler.finish(key)
                active -= 1
                continue
            row.append_environment(ids)
            sampler.extend(key, ids)
    return [row.freeze() for row in rows]


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of environment texts, without any special token added."""
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def encode_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, chat: bool = False
) -> list[list[int]]:
    """Token ids of prompts: as plain text, or as one user message of the chat template with `chat`.

    Raises:
        ConfigError: with `chat`, when the tokenizer has no chat template.
    """
    if not chat:
        return encode_texts(prompts, tokenizer)
    if not tokenizer.chat_template:
        raise ConfigError(
            "the policy's card (zerosearch.json) says chat = true, but its tokenizer has no chat template: put one "
            "into chat_template.jinja in the policy's directory, or set chat = false there."
        )
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in chats]
    return encode_texts(cast("list[str]", texts), tokenizer)
