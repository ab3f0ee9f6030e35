"""Token-in, token-out rollouts: many episodes at the same time, each at its own pace.

Training uses exactly the ids that the policy sampled, including the token that ended the turn; nothing is decoded and
encoded again. Environment text is tokenised once and appended. The loss mask is written together with each token:

    token_ids   [ prompt | turn 1 | documents | turn 2 | ... ]    shape (T,)
    loss_mask   [ 0 0 0  | 1 1 1  | 0 0 0 0 0 | 1 1 1  | ... ]

For a chat model the text between two turns has the messages of its chat template (`zerosearch_env.llm.chat_format`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from zerosearch_env.engines import SearchEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.llm.chat_format import PromptFormat, TurnEncoder
from zerosearch_env.randomness import mix
from zerosearch_env.types import Scores, SearchRequest, SearchResult, Step, StopReason

from .reward_threads import RewardThreads
from .searches import Answer, SearchDesk, make_desk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..sampling.protocol import TurnSample, TurnSampler

_SAMPLING = 1 << 33  # random stream of sampling: an episode's noise uses (search, document), both far smaller


@dataclass(frozen=True)
class Rollout:
    """One finished episode as tokens. The three arrays have the same length T and are read-only."""

    token_ids: NDArray[np.int32]
    """Exactly the sampler's row: prompt, sampled turns and environment text in order, shape `(T,)`."""
    loss_mask: NDArray[np.bool_]
    """True for tokens that the policy sampled, shape `(T,)`."""
    logprobs: NDArray[np.float32]
    """Log-probability of each sampled token when it was sampled, 0 elsewhere, shape `(T,)`."""
    scores: Scores
    """Scores of the episode."""
    stop_reason: StopReason
    """Why it ended."""
    noise_level: float
    """Probability of a noisy search in the episode."""
    turns: int
    """Turns taken."""
    invalid_turns: int
    """Turns without a valid action."""
    noisy_searches: int
    """Searches with at least one noisy document."""
    answered_searches: int
    """Searches with a gold answer in the documents."""
    searches_after_noise: int
    """Noisy searches after which the episode searched again."""
    error: str | None = None
    """The engine's error, if it ended the episode."""
    episode: Episode | None = None
    """The episode; None if the rollout comes from another process."""
    weight_versions: tuple[int, ...] = ()
    """Version of the weights that sampled each turn, in order (`TurnSample.weight_version`)."""

    @property
    def sampled_tokens(self) -> int:
        """Number of tokens that the policy sampled."""
        return int(self.loss_mask.sum())

    @property
    def trainable(self) -> bool:
        """False if the rollout must be excluded from the loss: the engine failed, or nothing was sampled."""
        return self.stop_reason is not StopReason.ENGINE_ERROR and bool(self.loss_mask.any())


class _EpisodeTokens:
    """The growing token sequence of one episode."""

    def __init__(self, episode: Episode, prompt_ids: list[int]) -> None:
        self.episode = episode
        self.token_ids: list[int] = []
        self.loss_mask: list[bool] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self.opening = ""
        """The part of the next turn that the context already holds."""
        self.last_turn: tuple[str, int | None] = ("", None)
        """Text of the last sampled turn, and the end-of-sequence token that ended it, if one did."""
        self.last: Step | None = None
        self.results: dict[int, SearchResult] = {}
        """By position, the results that have returned of a turn with several searches."""
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
        self.last_turn = sample.text, sample.token_ids[-1] if sample.finish == "eos" else None

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
    format: PromptFormat | None = None,
) -> list[Rollout]:
    """Play new episodes to their end: like `stream`, but all in parallel and with the rollouts in order."""
    played = dict(stream(episodes, engine, sampler, tokenizer, seeds=seeds, format=format))
    return [played[index] for index in range(len(episodes))]


def stream(
    episodes: Iterable[Episode],
    engine: SearchEngine,
    sampler: TurnSampler,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seeds: Iterable[int] | None = None,
    format: PromptFormat | None = None,
    active: int | None = None,
    desk: SearchDesk | None = None,
) -> Iterator[tuple[int, Rollout]]:
    """Play new episodes with a sampled policy, and yield each rollout as soon as its episode ends.

    Episodes do not wait for each other: an episode continues when its own turn and its own search are done. If the
    engine waits for other machines (`waits`), searches run while other episodes generate. An engine in this process
    answers all pending searches in one call whenever turns have ended. The sampled tokens of an episode depend only on
    its earlier tokens and its seed, and its documents only on its requests, so timing does not change a rollout (up to
    rounding).

    An episode with a failed search is truncated (`StopReason.ENGINE_ERROR`); one that exceeds the sampler's context
    ends with `StopReason.CONTEXT_LIMIT`.

    Args:
        episodes: episodes that have not begun, of the same rules; consumed as there is room.
        engine: the search engine.
        sampler: a sampler without rows that ends turns at the protocol's stop strings.
        tokenizer: tokenises prompts and environment text.
        seeds: 64-bit sampling seed per episode; None derives it from the episode's seed.
        format: how prompts and observations are shown to the model; None: as plain text.
        active: maximum episodes in parallel, at least 1; a new one starts when another ends. None: all.
        desk: runs the searches; None: one that fits the engine.

    Yields:
        The index of an episode in `episodes`, and its rollout.

    Raises:
        ConfigError: if the tokenizer's chat template cannot show what the format asks for.
        TrainingError: if the sampler failed.
    """
    if seeds is None:
        waiting = ((key, episode, mix(episode.seed, _SAMPLING)) for key, episode in enumerate(episodes))
    else:
        waiting = ((key, *pair) for key, pair in enumerate(zip(episodes, seeds, strict=True)))
    pool = RolloutPool(engine, sampler, tokenizer, format=format, desk=desk)
    try:
        while True:
            entering = list(islice(waiting, None if active is None else active - pool.active))
            yield from pool.enter(entering)
            if pool.active:
                yield from pool.advance()
            elif not entering:
                return
    finally:
        pool.close()


class RolloutPool:
    """The episodes being played, each at its own turn: `enter` adds new ones, `advance` returns finished rollouts.

    All of them have the same rules.

                  enter                    turn ends with a search
        episode ---------> generating -----------------------------> searching
                              |  ^                                        |
              turn ends       |  +----------------------------------------+
              the episode     v                documents appended
                           rollout

    Args:
        engine: the search engine.
        sampler: a sampler without rows that ends turns at the protocol's stop strings.
        tokenizer: tokenises prompts and environment text.
        format: how prompts and observations are shown to the model; None: as plain text.
        desk: runs the searches; None: one that fits the engine.
    """

    def __init__(
        self,
        engine: SearchEngine,
        sampler: TurnSampler,
        tokenizer: PreTrainedTokenizerBase,
        *,
        format: PromptFormat | None = None,
        desk: SearchDesk | None = None,
    ) -> None:
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._format = format
        self._encoder: TurnEncoder | None = None
        self._desk = make_desk(engine, sampler) if desk is None else desk
        self._rows: dict[int, _EpisodeTokens] = {}
        self._generating: set[int] = set()  # keys of generating rows; other rows wait for a search or a reward
        self._rewards: RewardThreads | None = None  # started by the first episode with a reward that waits

    @property
    def active(self) -> int:
        """Number of episodes being played."""
        return len(self._rows)

    def enter(self, entering: Sequence[tuple[int, Episode, int]]) -> list[tuple[int, Rollout]]:
        """Begin new episodes.

        Args:
            entering: per episode an unused number, the episode, and its 64-bit sampling seed.

        Returns:
            Rollouts of episodes that end immediately because their prompt fills the context.

        Raises:
            ConfigError: if the tokenizer's chat template cannot show what the format asks for.
        """
        over: list[tuple[int, Rollout]] = []
        if not entering:
            return over
        encoder = self._encoder
        if encoder is None:
            encoder = self._encoder = TurnEncoder(self._tokenizer, entering[0][1].rules, self._format)
        prompts = encoder.prompts([episode for _, episode, _ in entering])
        for (key, episode, seed), prompt in zip(entering, prompts, strict=True):
            row = _EpisodeTokens(episode, prompt)
            row.opening = encoder.opening()
            if len(prompt) >= self._sampler.context_tokens:
                row.last = episode.stop(StopReason.CONTEXT_LIMIT)
                over.append((key, row.freeze()))
                continue
            self._sampler.start(key, prompt, seed)
            self._rows[key] = row
            self._generating.add(key)
        return over

    def advance(self) -> list[tuple[int, Rollout]]:
        """Wait for turns or searches to end, and continue their episodes. Call it while there are active episodes.

        Returns:
            Numbers and rollouts of the finished episodes; possibly none, also after `wake`.

        Raises:
            TrainingError: if the sampler failed.
        """
        steps = self._end_turns(self._sampler.run()) if self._generating else []
        # If no row generates and no turn has ended, there must be pending searches or rewards: wait for one.
        idle = not self._generating and not steps
        if self._rewards is not None:
            searching = len(self._rows) > len(self._generating) + self._rewards.pending + len(steps)
            for key, outcome in self._rewards.collect(wait=idle and not searching):
                self._take(key, outcome, steps)
            idle = idle and not steps and searching
        results = self._desk.collect(wait=idle)
        steps += self._observe(results)
        return [(key, self._rows.pop(key).freeze()) for key in self._continue(steps)]

    def wake(self) -> None:
        """Make an `advance` in progress (or the next one) return soon. Callable from any thread."""
        self._sampler.wake()
        self._desk.wake()
        if self._rewards is not None:
            self._rewards.wake()

    def close(self) -> None:
        """Abandon the episodes being played, and remove their rows from the sampler."""
        self._desk.close()
        if self._rewards is not None:
            self._rewards.close()
        for key in self._rows:
            self._sampler.finish(key)
        self._rows.clear()
        self._generating.clear()

    def _end_turns(self, samples: Sequence[TurnSample]) -> list[tuple[int, Step]]:
        """Advance episodes by their finished turns: submit searches to the desk, return the steps of other turns."""
        steps: list[tuple[int, Step]] = []
        for sample in samples:
            key = cast("int", sample.key)
            self._generating.discard(key)
            row = self._rows[key]
            row.append_sampled(sample)
            text, row.opening = row.opening + sample.text, ""
            if sample.finish == "context":
                self._take(key, row.episode.stop(StopReason.CONTEXT_LIMIT, text), steps)
            elif row.episode.rules.waits:
                if self._rewards is None:
                    self._rewards = RewardThreads(self._on_reward)
                self._rewards.submit(key, row.episode, text)
            else:
                self._take(key, row.episode.advance(text), steps)
        return steps

    def _observe(self, answers: Sequence[Answer]) -> list[tuple[int, Step]]:
        """The steps of the turns whose searches have all returned. The results of other turns are kept."""
        steps: list[tuple[int, Step]] = []
        for key, result in answers:
            if isinstance(key, int):
                steps.append((key, self._rows[key].episode.observe(result)))
                continue
            number, position = key
            row = self._rows[number]
            row.results[position] = result
            count = len(row.episode.requests)
            if len(row.results) == count:
                steps.append((number, row.episode.observe([row.results.pop(i) for i in range(count)])))
        return steps

    def _take(
        self, key: int, outcome: SearchRequest | tuple[SearchRequest, ...] | Step, steps: list[tuple[int, Step]]
    ) -> None:
        """Submit the searches of a turn to the desk, or add its step."""
        if isinstance(outcome, Step):
            steps.append((key, outcome))
        elif isinstance(outcome, SearchRequest):
            self._desk.submit(key, outcome)
        else:
            for position, request in enumerate(outcome):
                self._desk.submit((key, position), request)

    def _on_reward(self) -> None:
        self._sampler.wake()
        self._desk.wake()

    def _continue(self, steps: Sequence[tuple[int, Step]]) -> list[int]:
        """Begin the next turn after each step. Returns keys of finished episodes; their sampler rows are removed."""
        encoder = self._encoder
        assert encoder is not None
        unfinished = [(key, step) for key, step in steps if not step.done]
        turns = [self._rows[key].last_turn for key, _ in unfinished]
        observations = encoder.observations([step for _, step in unfinished], turns)
        over = [key for key, step in steps if step.done]
        for key, step in steps:
            self._rows[key].last = step
        for (key, step), (_, end), ids in zip(unfinished, turns, observations, strict=True):
            row = self._rows[key]
            if len(row.token_ids) + len(ids) >= self._sampler.context_tokens:
                row.last = row.episode.stop(StopReason.CONTEXT_LIMIT)
                over.append(key)
            else:
                row.append_environment(ids)
                row.opening = encoder.opening(step, end)
                self._sampler.extend(key, ids)
                self._generating.add(key)
        for key in over:
            self._sampler.finish(key)
        return over
