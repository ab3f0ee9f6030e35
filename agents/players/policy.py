"""`PolicyPlayer`: plays episodes with a policy directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from zerosearch_env.engines.base import SearchEngine
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules, changed_rules
from zerosearch_env.identity import folder_hash, text_hash
from zerosearch_env.llm.local.devices import slow_dtype_note
from zerosearch_env.protocols import Protocol

from ..policy.card import (
    AgentCard,
    TokenLimits,
    card_notes,
    card_rules,
    changed_card,
    decide_chat,
    has_chat_template,
    model_context,
    read_card,
    token_limits,
)
from ..policy.files import check_complete
from ..policy.policy import Policy
from ..processes.pool import WorkerPool
from .base import OnDone, Player, PolicyOptions, blocks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..sampling.protocol import TurnSampler
    from ..sampling.remembered import RememberingSampler, TurnMemory


class PolicyPlayer(Player):
    """Plays with a policy directory: greedy by default, all episodes in one batch.

    A row's tokens do not depend on the other rows, so splitting the episodes over processes does not
    change the results (except for rounding in the last digits of the logits). For the same reason a greedy player
    remembers its turns: a context that returns in another episode, cell or noise level is not decoded again.

    Args:
        options: the policy's directory, or a complete `PolicyOptions`.
        name: name in results; None uses the directory.
        pool: worker processes to share with other players; None plays in this process.
    """

    counts_tokens = True

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

            self._policy = load_policy(self.options.path, dtype=self.dtype, device=self.options.device)
        return self._policy

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer."""
        return self.policy.tokenizer

    @property
    def greedy(self) -> bool:
        """See `Player.greedy`."""
        return self.options.temperature == 0

    @property
    def remembers(self) -> bool:
        """Whether `play_here` takes the turns of contexts that it has met before from memory."""
        return self.greedy

    @property
    def identity(self) -> dict[str, str]:
        """See `Player.identity`: the options that its turns depend on, and its files."""
        options = replace(self.options, path="", slots=1, device="cpu", dtype=self.dtype)
        return {"options": text_hash(repr(options)), "files": folder_hash(Path(self.options.path))}

    def check(self) -> None:
        """See `Player.check`: the policy's files are complete, and those of a causal language model."""
        check_complete(Path(self.options.path))

    @cached_property
    def dtype(self) -> str:
        """The data type of the policy's weights: the option's, or what "auto" is for them on the device."""
        from ..policy.policy import policy_dtype

        options = self.options
        return policy_dtype(Path(options.path), options.device) if options.dtype == "auto" else options.dtype

    @cached_property
    def _memory(self) -> TurnMemory:
        from ..sampling.remembered import TurnMemory

        return TurnMemory()

    @cached_property
    def card(self) -> AgentCard:
        """The policy's card, with what the options change of it. Without a card, the defaults."""
        options = self.options
        limits = {"turn_tokens": options.turn_tokens, "context_tokens": options.context_tokens}
        card = changed_card(read_card(options.path) or AgentCard(), limits | dict(options.format))
        if card.chat is None and has_chat_template(Path(options.path)):
            from ..policy.policy import load_tokenizer

            return decide_chat(card, load_tokenizer(options.path))
        return decide_chat(card, None)

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules, with the protocol, prompt and limits that the policy was trained with."""
        return card_rules(changed_rules(rules, dict(self.options.rules)), self.card)

    def notes(self, rules: Rules) -> list[str]:
        """See `Player.notes`."""
        options = self.options
        notes = card_notes(self.name, options.path, self.card, changed_rules(rules, dict(options.rules)))
        slow = None if options.dtype == "auto" else slow_dtype_note(options.device, options.dtype)
        return notes if slow is None else [*notes, slow]

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
        make = self.make_remembering_sampler if self.remembers else self.make_sampler
        sampler = make(len(episodes), episodes[0].rules.protocol)
        for index, _ in stream(episodes, engine, sampler, self.tokenizer, format=self.card.format):
            if on_done:
                on_done(index)

    def make_sampler(self, rows: int, protocol: Protocol, stop_strings: Sequence[str] | None = None) -> TurnSampler:
        """A sampler for `rows` episodes; turns end at `stop_strings`, by default the protocol's."""
        policy, options = self.policy, self.options  # first: without torch, it says what to install
        from ..sampling.local import Sampler

        limits = self._token_limits(protocol)
        return Sampler(
            policy.model,
            policy.tokenizer,
            slots=min(options.slots, rows),
            context_tokens=limits.context_tokens,
            stop_strings=protocol.stop_strings if stop_strings is None else stop_strings,
            temperature=options.temperature,
            top_p=options.top_p,
            turn_tokens=limits.turn_tokens,
        )

    def make_remembering_sampler(
        self, rows: int, protocol: Protocol, stop_strings: Sequence[str] | None = None
    ) -> RememberingSampler:
        """One of `make_sampler` that is made when it is needed: all turns of this player are in one memory."""
        from ..sampling.remembered import RememberingSampler

        stops = tuple(protocol.stop_strings if stop_strings is None else stop_strings)
        limits = self._token_limits(protocol)
        return RememberingSampler(
            lambda: self.make_sampler(rows, protocol, stops),
            self._memory,
            (stops, limits),  # weights, temperature and top_p are the same in all turns of the player
            context_tokens=limits.context_tokens,
            seeded=not self.greedy,
        )

    def _token_limits(self, protocol: Protocol) -> TokenLimits:
        return token_limits(self.card, protocol, model_context(self.policy.model.config))
