"""What a run tells its user in plain words: what its first episodes look like, and why nothing is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .metrics import rollout_metrics

if TYPE_CHECKING:
    from ..rollouts.rollout import Rollout

STEPS_WITHOUT_UPDATE = 3
"""After this many steps in a row without an update, `no_update_warning` returns a message."""
_MOST = 0.5
"""A share from which on a fault counts as the reason."""
_WARM_START = (
    "Warm-start the policy on demonstrations with `zerosearch demos` and `zerosearch sft` (docs/warm-start.md)."
)
_TOO_HARD = f"The questions may be too hard for this policy, or their answers not in its documents. {_WARM_START}"


def no_update_warning(history: Sequence[Mapping[str, float]], group_size: int) -> str | None:
    """The warning that the last `STEPS_WITHOUT_UPDATE` steps changed nothing; None if there is nothing to say.

    A pure function. It warns once for each series of such steps. Updates that were skipped because their gradient is
    not finite are no such case: they have an alarm.

    Args:
        history: the metrics of all steps so far as in `metrics.jsonl`, oldest first.
        group_size: rollouts per question.
    """
    idle = 0
    for record in reversed(history):
        if record.get("updates", 1.0) or record.get("skipped_updates"):
            break
        idle += 1
    if idle != STEPS_WITHOUT_UPDATE:
        return None
    reasons, remedy = _why_no_update(history[-idle:], group_size)
    return f"NO UPDATE IN {idle} STEPS: nothing is learnt. {_sentence(reasons)} {remedy}"


def _why_no_update(steps: Sequence[Mapping[str, float]], group_size: int) -> tuple[list[str], str]:
    """The reasons, the most general one first, and what to do."""

    def mean(name: str) -> float:
        values = [record[name] for record in steps if name in record]
        return sum(values) / len(values) if values else 0.0

    if not any("reward" in record for record in steps):
        return ["no episode has a reward: every search failed"], "See the errors in transcripts.jsonl."
    reward = mean("reward")
    alike = not any(record.get("reward_std") for record in steps)
    reasons = [f"every reward is {reward:g}" if alike else "in every group all rewards are equal"]
    for name, what in (
        ("invalid_rate", "of turns have no valid action"),
        ("context_limit", "of episodes exceed rollout.context_tokens"),
        ("engine_failures", "episodes per step end with a failed search"),
    ):
        if (value := mean(name)) >= _MOST:
            reasons.append(f"{value:.3g} {what}" if name == "engine_failures" else f"{100 * value:.0f} % {what}")
    if mean("invalid_rate") >= _MOST:
        return reasons, f"The policy does not know the format. {_WARM_START}"
    if mean("context_limit") >= _MOST:
        return reasons, "Raise rollout.context_tokens, or set environment.max_observation_tokens."
    if alike and reward == 0.0:
        return reasons, _TOO_HARD
    if reward >= 1.0 - _MOST / 10:
        return reasons, "The questions are too easy: raise the noise (curriculum.end) or use harder ones."
    return reasons, (
        f"Use larger groups (rollout.group_size, now {group_size}) or more questions per step (rollout.prompts)."
    )


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def describe_first_step(
    groups: Sequence[Sequence[Rollout]], *, context_tokens: int, seconds: float, steps: int
) -> tuple[list[str], list[str]]:
    """What the episodes of a run's first step say about the run, before anything is trained on them. A pure function.

    Args:
        groups: the rollouts of the step.
        context_tokens: maximum tokens per episode.
        seconds: wall time of sampling and searching.
        steps: steps of the run.

    Returns:
        Three lines about the episodes, and warnings: that no question was solved, or that no search found an answer.
    """
    metrics = rollout_metrics(groups)
    count = sum(map(len, groups))
    if "reward" not in metrics:
        return [], [f"FIRST STEP: every search failed in {count} episodes: {_first_error(groups)}"]
    differing = sum(len({rollout.scores.reward for rollout in group}) > 1 for group in groups)
    questions = f"{len(groups)} question{'s' * (len(groups) != 1)}"
    longest = max(len(rollout.token_ids) for group in groups for rollout in group)
    lines = [
        f"first step, {count} episodes of {questions}: reward {metrics['reward']:.2f}, "
        f"{metrics['searches']:.2f} searches per episode, {100 * metrics['invalid_rate']:.0f} % of turns invalid",
        f"groups with different rewards, the only ones to learn from: {differing} of {len(groups)}; an episode has "
        f"{metrics['episode_tokens']:.0f} tokens on average, the longest {longest} of at most {context_tokens}",
        f"sampling took {format_seconds(seconds)}: {steps} steps take at least {format_seconds(seconds * steps)}, and "
        "the updates come on top",
    ]
    warnings = []
    if not any(rollout.scores.reward > 0.0 for group in groups for rollout in group):
        warnings.append(
            f"NO QUESTION SOLVED: none of the {count} episodes of the first step has a reward above 0. If that remains "
            f"so, nothing is learnt. {_WARM_START if metrics['invalid_rate'] >= _MOST else _TOO_HARD}"
        )
    if metrics.get("answer_in_documents", 1.0) == 0.0:
        warnings.append(
            "NO ANSWER FOUND: no search of the first step returned a document with a gold answer. Check that the "
            "search engine's passages are about these questions."
        )
    return lines, warnings


def _first_error(groups: Sequence[Sequence[Rollout]]) -> str:
    return next((rollout.error for group in groups for rollout in group if rollout.error), "no reward has a value")


def format_seconds(seconds: float) -> str:
    """Formats seconds as m:ss, or as h:mm:ss from one hour on."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
