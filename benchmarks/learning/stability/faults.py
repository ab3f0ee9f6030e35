"""Known bugs of search-RL code, for `zerosearch bench stability`. Each replaces one pure function of a step.

They exist only in this file, and are active only inside the `behaviour` context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zerosearch_agents.forward.batch import Sample
    from zerosearch_agents.rollouts.rollout import Rollout
    from zerosearch_agents.training.update import Learner

BEHAVIOURS = ("ours", "kl-subtracted", "re-tokenised", "documents-trained")
Groups = list[list["Sample"]]
Score = Callable[["Learner", Sequence[Sequence["Sample"]]], Groups]


@contextlib.contextmanager
def behaviour(name: str) -> Iterator[list[float]]:
    """Give training inside the context this bug; `"ours"` has none.

    Yields:
        For each step so far, the share of episodes with token ids that change when decoded and encoded again.
    """
    from zerosearch_agents.training import loss as objective
    from zerosearch_agents.training import trainer

    step: Any = trainer
    losses: Any = objective
    compute_logprobs, kl_loss = step.compute_logprobs, losses.kl_loss
    changed: list[float] = []

    def watched(learner: Learner, groups: Sequence[Sequence[Sample]]) -> Groups:
        rollouts = [sample.rollout for group in groups for sample in group]
        changed.append(share_changed(learner.policy.tokenizer, rollouts))
        return faulty(learner, groups)

    faulty: Score = compute_logprobs
    if name == "re-tokenised":
        faulty = _changing(compute_logprobs, retokenised)
    elif name == "documents-trained":
        faulty = _changing(compute_logprobs, lambda learner, rollout: with_documents(rollout))
    elif name == "kl-subtracted":
        losses.kl_loss = lambda *arguments: -kl_loss(*arguments)
    step.compute_logprobs = watched
    try:
        yield changed
    finally:
        step.compute_logprobs, losses.kl_loss = compute_logprobs, kl_loss


def _changing(compute_logprobs: Score, change: Callable[[Learner, Rollout], Rollout]) -> Score:
    """Wrap `compute_logprobs` to change the rollouts; changed tokens get the learner's log-probabilities."""

    def changed(learner: Learner, groups: Sequence[Sequence[Sample]]) -> Groups:
        new = [[replace(sample, rollout=change(learner, sample.rollout)) for sample in group] for group in groups]
        return [[_with_old_logprobs(sample) for sample in group] for group in compute_logprobs(learner, new)]

    return changed


def _with_old_logprobs(sample: Sample) -> Sample:
    assert sample.old_logprobs is not None
    logprobs = np.zeros(len(sample.rollout.token_ids), dtype=np.float32)
    logprobs[sample.rollout.loss_mask] = sample.old_logprobs
    return replace(sample, rollout=replace(sample.rollout, logprobs=logprobs))


def with_documents(rollout: Rollout) -> Rollout:
    """Return the rollout with a mask that includes everything after the prompt in the loss."""
    mask = rollout.loss_mask.copy()
    mask[int(np.argmax(mask)) :] = True
    return replace(rollout, loss_mask=mask)


def encoded_again(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Decode sampled ids without special tokens, and encode them again."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    again: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return again


def sampled_turns(rollout: Rollout) -> list[tuple[int, int]]:
    """Return (start, end) of each run of sampled tokens, end excluded."""
    edges = np.flatnonzero(np.diff(rollout.loss_mask, prepend=False, append=False))
    return [(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


def share_changed(tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Rollout]) -> float:
    """Return the share of rollouts in which the ids of at least one turn change when decoded and encoded again."""
    changed = 0
    for rollout in rollouts:
        turns = [rollout.token_ids[start:stop].tolist() for start, stop in sampled_turns(rollout)]
        changed += any(encoded_again(tokenizer, turn) != turn for turn in turns)
    return changed / len(rollouts)


def retokenised(learner: Learner, rollout: Rollout) -> Rollout:
    """Return the rollout with every turn decoded without special tokens and encoded again."""
    ids = rollout.token_ids
    new_ids: list[int] = []
    new_mask: list[bool] = []
    end = 0
    for start, stop in [*sampled_turns(rollout), (len(ids), len(ids))]:
        again = encoded_again(learner.policy.tokenizer, ids[start:stop].tolist())
        for part, sampled in ((ids[end:start].tolist(), False), (again, True)):
            new_ids += part
            new_mask += [sampled] * len(part)
        end = stop
    room = learner.sampler.context_tokens
    return replace(
        rollout,
        token_ids=np.array(new_ids[:room], dtype=np.int32),
        loss_mask=np.array(new_mask[:room], dtype=np.bool_),
        logprobs=np.zeros(len(new_ids[:room]), dtype=np.float32),
    )
