"""`PolicyPlayer`: plays episodes with a policy directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.engines.base import SearchEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, choose_notices
from zerosearch_env.protocols import get_protocol

from ..policy.policy import AgentCard, Policy
from ..processes.pool import WorkerPool
from .base import OnDone, PolicyOptions, blocks

if TYPE_CHECKING:
    from ..sampling.local import Sampler


class PolicyPlayer:
    """Plays with a policy directory: greedy by default, all episodes in one batch.

    A row's tokens do not depend on the other rows, so splitting the episodes over processes does not
    change the results (except for rounding in the last digits of the logits).

    Args:
        options: the policy's directory, or a complete `PolicyOptions`.
        name: name in results; None uses the directory.
        pool: worker processes to share with other players; None plays in this process.
    """

    searches = True

    def __init__(
        self, options: PolicyOptions | str | Path, *, name: str | None = None, pool: WorkerPool | None = None
    ) -> None:
        self.options = options if isinstance(options, PolicyOptions) else PolicyOptions(str(options))
        self.name = name or self.options.path
        self.pool = pool
        self._policy: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The policy, loaded on first use."""
        if self._policy is None:
            from ..policy.policy import load_policy

            self._policy = load_policy(self.options.path, dtype=self.options.dtype, device=self.options.device)
        return self._policy

    @property
    def card(self) -> AgentCard:
        """The policy's card: its protocol, prompt and limits."""
        return self.policy.card

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules, with the protocol and the prompt that the policy was trained with."""
        return card_rules(rules, self.card)

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`."""
        for block, done in blocks(episodes, on_done):
            if self.pool is not None and len(block) > 1:
                self.pool.play(type(self), self.options, block, engine, done)
            else:
                self.play_here(block, engine, done)

    def play_here(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode in this process."""
        from ..rollouts.rollout import stream

        if not episodes:
            return
        sampler = self.make_sampler(len(episodes), episodes[0].rules.protocol.stop_strings)
        for index, _ in stream(episodes, engine, sampler, self.policy.tokenizer, chat=self.card.chat):
            if on_done:
                on_done(index)

    def make_sampler(self, rows: int, stop_strings: Sequence[str]) -> Sampler:
        """A sampler for `rows` episodes; turns end at `stop_strings`."""
        from ..sampling.local import Sampler

        policy, options = self.policy, self.options
        return Sampler(
            policy.model,
            policy.tokenizer,
            slots=min(options.slots, rows),
            context_tokens=policy.card.context_tokens,
            stop_strings=stop_strings,
            temperature=options.temperature,
            turn_tokens=options.turn_tokens or policy.card.turn_tokens,
        )


def card_rules(rules: Rules, card: AgentCard) -> Rules:
    """The evaluation's rules, with the protocol and the prompt of a policy's card."""
    protocol = get_protocol(card.protocol)
    invalid_notice, last_turn_notice = choose_notices(protocol)
    return replace(
        rules,
        protocol=protocol,
        prompt_template=card.prompt_template or protocol.prompt_template,
        invalid_notice=invalid_notice,
        last_turn_notice=last_turn_notice,
    )
