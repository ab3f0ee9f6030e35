"""Token-in, token-out rollouts: many episodes at once, each on its own clock.

The ids that the policy sampled are the ids that are trained on, the token that ended the turn included; nothing is
decoded and encoded again. Environment text is tokenised once and appended. The loss mask is born with each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.engines import SearchEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.episode import Episode
from zerosearch_env.randomness import mix
from zerosearch_env.types import Scores, SearchRequest, Step, StopReason

from .searches import SearchDesk, make_desk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..sampling.protocol import TurnSample, TurnSampler

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
    weight_versions: tuple[int, ...] = ()
    """Version of the weights that sampled each turn, in order (`TurnSample.weight_version`)."""

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
        self.versions: list[int] = []
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
        self.versions.append(sample.weight_version)

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
            weight_versions=tuple(self.versions),
        )


def rollout(
    episodes: Sequence[Episode],
    engine: SearchEngine,
    sampler: TurnSampler,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seeds: Sequence[int] | None = None,
    chat: bool = False,
) -> list[Rollout]:
    """Plays fresh episodes to their end: `stream`, with all of them at once and their rollouts in order."""
    played = dict(stream(episodes, engine, sampler, tokenizer, seeds=seeds, chat=chat))
    return [played[index] for index in range(len(episodes))]


def stream(
    episodes: Iterable[Episode],
    engine: SearchEngine,
    sampler: TurnSampler,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seeds: Iterable[int] | None = None,
    chat: bool = False,
    active: int | None = None,
    desk: SearchDesk | None = None,
) -> Iterator[tuple[int, Rollout]]:
    """Plays fresh episodes with a sampled policy, and yields each as soon as it is over.

    There is no turn that all wait for: an episode goes on when its own turn and its own search are done. Searches of an
    engine that waits for others (`waits`) run while the rest generates; those of an engine in this process are answered
    in one call whenever turns have ended. What an episode samples depends on its tokens and its seed, and what it finds
    on its requests, so timing changes no rollout (up to rounding).

    An episode whose search fails is truncated (`StopReason.ENGINE_ERROR`), one that outgrows the sampler's context ends
    with `StopReason.CONTEXT_LIMIT`.

    Args:
        episodes: episodes that have not begun; taken as there is room.
        engine: answers the searches.
        sampler: a sampler without rows, which ends turns at the protocol's stop strings.
        tokenizer: tokenises prompts and environment text.
        seeds: 64-bit seed of what each episode samples; None derives it from the episode's own seed.
        chat: whether prompts go through the tokenizer's chat template.
        active: most episodes played at once, at least 1; a new one enters when another one ends. None: all of them.
        desk: takes the searches; None: one that fits the engine.

    Yields:
        The place of an episode among `episodes`, and its rollout.

    Raises:
        TrainingError: the sampler failed.
    """
    if seeds is None:
        waiting = ((key, episode, mix(episode.seed, _SAMPLING)) for key, episode in enumerate(episodes))
    else:
        waiting = ((key, *one) for key, one in enumerate(zip(episodes, seeds, strict=True)))
    table = RolloutPool(engine, sampler, tokenizer, chat=chat, desk=desk)
    try:
        while True:
            entering = list(islice(waiting, None if active is None else active - table.active))
            yield from table.enter(entering)
            if table.active:
                yield from table.advance()
            elif not entering:
                return
    finally:
        table.close()


class RolloutPool:
    """Episodes in play, each at its own turn: they enter, `advance` takes them on, and their rollouts come out.

    Args:
        engine: answers the searches.
        sampler: a sampler without rows, which ends turns at the protocol's stop strings.
        tokenizer: tokenises prompts and environment text.
        chat: whether prompts go through the tokenizer's chat template.
        desk: takes the searches; None: one that fits the engine.
    """

    def __init__(
        self,
        engine: SearchEngine,
        sampler: TurnSampler,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat: bool = False,
        desk: SearchDesk | None = None,
    ) -> None:
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._chat = chat
        self._desk = make_desk(engine, sampler) if desk is None else desk
        self._rows: dict[int, _Row] = {}
        self._generating: set[int] = set()  # the others' searches are pending

    @property
    def active(self) -> int:
        """Episodes in play."""
        return len(self._rows)

    def enter(self, entering: Sequence[tuple[int, Episode, int]]) -> list[tuple[int, Rollout]]:
        """Begins fresh episodes.

        Args:
            entering: a number that is not in play, the episode, and the 64-bit seed of what it samples.

        Returns:
            Those that are over at once, since their prompt fills the context.
        """
        over: list[tuple[int, Rollout]] = []
        prompts = encode_prompts([episode.prompt for _, episode, _ in entering], self._tokenizer, chat=self._chat)
        for (key, episode, seed), prompt in zip(entering, prompts, strict=True):
            row = _Row(episode, prompt)
            if len(prompt) >= self._sampler.context_tokens:
                row.last = episode.stop(StopReason.CONTEXT_LIMIT)
                over.append((key, row.freeze()))
                continue
            self._sampler.start(key, prompt, seed)
            self._rows[key] = row
            self._generating.add(key)
        return over

    def advance(self) -> list[tuple[int, Rollout]]:
        """Waits for turns or searches to end, and takes their episodes on. To be called while there are active ones.

        Returns:
            The episodes that are over, by their numbers; there may be none, also after `wake`.

        Raises:
            TrainingError: the sampler failed.
        """
        rows, generating, desk = self._rows, self._generating, self._desk
        steps = _end_turns(rows, self._sampler.run(), desk, generating) if generating else []
        # Nothing generates and no turn has ended: then searches are pending.
        found = desk.collect(wait=not generating and not steps)
        steps += [(key, rows[key].episode.observe(result)) for key, result in found]
        over = _go_on(rows, steps, self._sampler, self._tokenizer, generating)
        return [(key, rows.pop(key).freeze()) for key in over]

    def wake(self) -> None:
        """Has an `advance` in progress (or the next one) return soon. From any thread."""
        self._sampler.wake()
        self._desk.wake()

    def close(self) -> None:
        """Gives up the episodes in play; the sampler forgets them."""
        self._desk.close()
        for key in self._rows:
            self._sampler.finish(key)
        self._rows.clear()
        self._generating.clear()


def _end_turns(
    rows: Mapping[int, _Row], samples: Sequence[TurnSample], desk: SearchDesk, generating: set[int]
) -> list[tuple[int, Step]]:
    """Takes finished turns into their episodes: searches go to the desk, the steps of the others come back."""
    steps: list[tuple[int, Step]] = []
    for sample in samples:
        key = cast("int", sample.key)
        generating.discard(key)
        row = rows[key]
        row.append_sampled(sample)
        if sample.finish == "context":
            outcome: SearchRequest | Step = row.episode.stop(StopReason.CONTEXT_LIMIT, sample.text)
        else:
            outcome = row.episode.advance(sample.text)
        if isinstance(outcome, SearchRequest):
            desk.submit(key, outcome)
        else:
            steps.append((key, outcome))
    return steps


def _go_on(
    rows: Mapping[int, _Row],
    steps: Sequence[tuple[int, Step]],
    sampler: TurnSampler,
    tokenizer: PreTrainedTokenizerBase,
    generating: set[int],
) -> list[int]:
    """Begins the next turn after each step; the keys of the episodes that are over, whose rows the sampler forgets."""
    open_ = [(key, step) for key, step in steps if not step.done]
    texts = encode_texts([step.observation for _, step in open_], tokenizer)
    over: list[int] = []
    for key, step in steps:
        rows[key].last = step
        if step.done:
            over.append(key)
            sampler.finish(key)
    for (key, _), ids in zip(open_, texts, strict=True):
        row = rows[key]
        if len(row.token_ids) + len(ids) >= sampler.context_tokens:
            row.last = row.episode.stop(StopReason.CONTEXT_LIMIT)
            over.append(key)
            sampler.finish(key)
            continue
        row.append_environment(ids)
        sampler.extend(key, ids)
        generating.add(key)
    return over


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
