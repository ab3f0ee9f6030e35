"""Rewards and scores by name, and the check of a user's own functions.

A reward is one of two kinds, told apart by the number of required positional parameters:

    def reward(episode): ...                  the finished `Episode`, with its last turn and its scores
    def reward(prediction, answers): ...      the prediction (None without an answer) and the gold answers

Both return a finite number. Everything that can be a reward can be an additional score too. A reward that waits for a
server says so with an attribute `waits = True`: where many episodes are played, such rewards are computed in threads.
A reward that cannot tell raises `UnjudgedError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from ..checks import check_number
from ..errors import ConfigError, UnjudgedError, sentence, unknown_name
from ..loading import instantiate, load_attribute, load_function, names_code
from ..types import Scores, Step
from . import published_rewards, published_scores
from .published_rewards import FinishedEpisode
from .rewards import exact_match, f1_score, sub_exact_match
from .unicode_scores import unicode_exact_match, unicode_f1

_ALWAYS = ("em", "f1", "subem", "em_unicode", "f1_unicode", "misled", "abstained", "hallucinated")
"""Scores that every episode has."""
_RESERVED = frozenset(entry.name for kind in (Step, Scores) for entry in fields(kind)) | {
    *("question", "question_id", "progress", "queries", "document_groups", "answer_in_documents", "final_obs"),
    *("final_info", "episode"),
}
"""Keys of infos and transcripts that a score cannot have as its name."""


@dataclass(frozen=True, slots=True)
class CheckedReward:
    """A user's function (prediction or None, gold answers) -> number, with its result checked."""

    function: Callable[[str | None, Sequence[str]], float]

    @property
    def waits(self) -> bool:
        """Whether it waits for a server."""
        return bool(getattr(self.function, "waits", False))

    def __call__(self, prediction: str | None, answers: Sequence[str]) -> float:
        """The reward as a float.

        Raises:
            ConfigError: the function raises, or does not return a finite number.
            UnjudgedError: the function raised it.
        """
        return _checked_value(self.function, (prediction, answers), prediction)


@dataclass(frozen=True, slots=True)
class EpisodeReward:
    """A function episode -> number, with its result checked."""

    function: Callable[[FinishedEpisode], float]

    @property
    def waits(self) -> bool:
        """Whether it waits for a server."""
        return bool(getattr(self.function, "waits", False))

    def __call__(self, episode: FinishedEpisode) -> float:
        """The reward as a float.

        Raises:
            ConfigError: the function raises, or does not return a finite number.
            UnjudgedError: the function raised it.
        """
        return _checked_value(self.function, (episode,), None if episode.scores is None else episode.scores.prediction)


def ternary(episode: FinishedEpisode) -> float:
    """1 for a right answer (exact match), 0 for an abstention, -1 for anything else (TruthRL, arXiv 2509.25760).

    An episode without an answer counts as wrong: otherwise not to answer would be the cheapest way to abstain.
    """
    scores = episode.scores
    assert scores is not None  # the episode has ended
    return 1.0 if scores.em else 0.0 if scores.abstained else -1.0


Reward: TypeAlias = Callable[[str | None, Sequence[str]], float] | EpisodeReward
"""(prediction or None, gold answers) -> a finite number, or an `EpisodeReward`."""
ScoreSpec: TypeAlias = str | Callable[..., float]
"""The description of an additional score: a name, `judge:...`, `"file.py:function"`, or a callable."""

REWARDS: Mapping[str, Reward] = {
    "em": exact_match,
    "ternary": EpisodeReward(ternary),
    "f1": f1_score,
    "subem": sub_exact_match,
    "em_unicode": unicode_exact_match,
    "f1_unicode": unicode_f1,
    "zerosearch_em": published_scores.zerosearch_em,
    "research_f1": published_scores.research_f1,
    "r1_searcher_em": published_scores.r1_searcher_em,
    "r1_searcher_f1": published_scores.r1_searcher_f1,
    "r1_searcher_cover_em": published_scores.r1_searcher_cover_em,
    "deepresearcher_em": published_scores.deepresearcher_em,
    "deepresearcher_f1": published_scores.deepresearcher_f1,
    "search-r1-format": EpisodeReward(published_rewards.search_r1_format),
    "search-r1-retrieval": EpisodeReward(published_rewards.search_r1_retrieval),
    "r1-searcher": EpisodeReward(published_rewards.r1_searcher),
    "r1-searcher-stage1": EpisodeReward(published_rewards.r1_searcher_stage1),
    "r1-searcher-stage2": EpisodeReward(published_rewards.r1_searcher_stage2),
    "research": EpisodeReward(published_rewards.research),
    "deepresearcher": EpisodeReward(published_rewards.deepresearcher),
}
"""The built-in rewards and scores, by name: scores with underscores, whole rewards of a system with hyphens."""

_KINDS = {"judge": "zerosearch_env.llm.judge:make_judge"}
"""Rewards with an argument after a colon: kind -> the function that makes one. Imported at first use, because they
need clients of servers, which the rules of the game know nothing of."""


def get_reward(reward: ScoreSpec) -> Reward:
    """Look up a reward by name (see `REWARDS`), or wrap a user's function so that its results are checked.

    Args:
        reward: a name, `"judge:openai:URL"`, a callable with one (episode) or two (prediction or None, gold answers)
            required positional parameters that returns a finite number, a class without arguments whose instances are
            such callables, or `"module:attribute"` or `"file.py:attribute"`, which is loaded.

    Raises:
        ConfigError: the name is unknown or cannot be loaded, the argument is neither a name nor a callable, or the
            callable has other required parameters.
    """
    if isinstance(reward, str):
        kind, separator, argument = reward.partition(":")
        if separator and kind in _KINDS:
            return EpisodeReward(load_attribute(_KINDS[kind], "reward")(argument))
        if names_code(reward):
            return _wrap(load_function(reward, "reward"))
        if reward not in REWARDS:
            raise unknown_name("reward", reward, [*REWARDS, *(f"{name}:openai:URL" for name in _KINDS)])
        return REWARDS[reward]
    if not callable(reward):
        raise ConfigError(f"reward must be a name or a callable, got {reward!r}. Names: {', '.join(REWARDS)}.")
    if isinstance(reward, (CheckedReward, EpisodeReward)) or any(reward is known for known in REWARDS.values()):
        return reward
    return _wrap(instantiate(reward, f"reward {_name(reward)}") if inspect.isclass(reward) else reward)


def get_scores(scores: Sequence[ScoreSpec]) -> tuple[tuple[str, Reward], ...]:
    """Additional scores: the name under which each is reported, and its function.

    Args:
        scores: what `get_reward` accepts. The name of a score is its own name, `judge`, or the function's. Scores that
            every episode has anyway are left out.

    Raises:
        ConfigError: see `get_reward`; or two scores have the same name, or one has a name that is taken.
    """
    if isinstance(scores, str) or not isinstance(scores, Sequence):
        raise ConfigError(f'scores must be a list of names or callables, such as ["zerosearch_em"], got {scores!r}.')
    named: dict[str, Reward] = {}
    for spec in scores:
        if spec in _ALWAYS:
            continue
        name = _score_name(spec)
        if name in named:
            raise ConfigError(f"two scores are called {name!r}: leave one out, or give your function another name.")
        if name in _RESERVED:
            raise ConfigError(f"a score cannot be called {name!r}, which means something else: rename the function.")
        named[name] = get_reward(spec)
    return tuple(named.items())


def pay(reward: Reward, episode: FinishedEpisode) -> float:
    """The value of a reward or score for an episode that has ended.

    Raises:
        ConfigError: the user's function failed.
        UnjudgedError: there is no value.
    """
    if isinstance(reward, EpisodeReward):
        return reward(episode)
    prediction = None if episode.scores is None else episode.scores.prediction
    return reward(prediction, episode.question.answers)


def _score_name(spec: ScoreSpec) -> str:
    if not isinstance(spec, str):
        return getattr(spec, "__name__", type(spec).__name__)
    kind = spec.partition(":")[0]
    return kind if kind in _KINDS else spec.rpartition(":")[2].rpartition(".")[2]


def _wrap(function: Callable[..., float]) -> Reward:
    """The user's function by its number of required parameters.

    Raises:
        ConfigError: the number is neither one nor two, or unknown.
    """
    expected = "one required positional parameter (episode) or two (prediction, answers)"
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError) as cause:
        raise ConfigError(
            f"the reward {_name(function)} has no signature that Python can read: write a function around it, with "
            f"{expected}."
        ) from cause
    needed = [p for p in signature.parameters.values() if p.default is p.empty]
    positional = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
    if any(p.kind is p.KEYWORD_ONLY for p in needed) or positional not in (1, 2):
        raise ConfigError(f"the reward {_name(function)}{signature} must have {expected}, and no other required ones.")
    return EpisodeReward(function) if positional == 1 else CheckedReward(function)


def _checked_value(function: Callable[..., float], arguments: tuple[Any, ...], prediction: str | None) -> float:
    name = _name(function)
    try:
        value = function(*arguments)
    except UnjudgedError:
        raise
    except (Exception, SystemExit) as cause:
        raise ConfigError(
            f"the reward {name} raised {type(cause).__name__} for prediction {prediction!r:.100}: {sentence(cause)}"
        ) from cause
    what = f"the value that the reward {name} returned for prediction {prediction!r:.100}"
    hint = "Return a float; the prediction is None when the episode ended without an answer."
    return check_number(what, int(value) if isinstance(value, bool) else value, hint=hint)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", repr(function))
