"""Players: whatever can play episodes to their end.

    PolicyPlayer      a policy directory, batched over all episodes, in one process or several
    CallablePlayer    any `module:callable` of a third party (`third_party.py`)
    baselines         direct answer, one-search RAG, random, oracle (`baselines.py`)

`make_player` builds one from its description on the command line.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from zerosearch_env.episode import Episode, Rules
from zerosearch_env.errors import ConfigError, unknown_name
from zerosearch_env.protocols import get_protocol

from .config import policy_path
from .third_party import CallablePlayer

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

    from .model import AgentCard, Policy
    from .sampler import Sampler
    from .workers import WorkerPool

__all__ = [
    "CallablePlayer",
    "OnDone",
    "Player",
    "PolicyOptions",
    "PolicyPlayer",
    "card_rules",
    "fingerprint",
    "make_player",
    "player_kinds",
]

OnDone = Callable[[Episode], None]


@runtime_checkable
class Player(Protocol):
    """Who plays."""

    name: str
    """How the player is called in results."""
    searches: bool
    """False when it never searches: then no noise is drawn and one noise level stands for all."""

    def rules_for(self, rules: Rules) -> Rules:
        """The rules it plays by: the evaluation's, with the protocol it was trained in where it has one."""
        ...

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode to its end.

        Args:
            episodes: fresh episodes of one cell of an evaluation.
            engine: answers the searches.
            on_done: called with each episode as soon as it is over.
        """
        ...


@dataclass(frozen=True)
class PolicyOptions:
    """How a policy is loaded and sampled; plain values, so that worker processes can be told."""

    path: str
    """Directory of the policy."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    slots: int = 64
    """Episodes that are decoded side by side in one process; changes speed and memory, not results."""
    turn_tokens: int | None = None
    """Most tokens sampled in one turn; None: what the policy's card says."""
    device: str = "cpu"
    """Where the model goes: "cpu" or "cuda"."""
    dtype: str = "float32"
    """Type of the weights: "float32", "bfloat16" or "float16"."""


class PolicyPlayer:
    """Plays with a policy directory: greedy by default, all episodes in one batch.

    A row's tokens do not depend on the other rows, so splitting the episodes over processes changes no result (up to
    rounding in the last digits of the logits).

    Args:
        options: the policy's directory, or all options.
        name: how it is called in results; None takes the directory.
        pool: worker processes to share with other players; None plays in this process.
    """

    kind = "policy"
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
        """The policy, loaded at first use."""
        if self._policy is None:
            from .model import load_policy

            self._policy = load_policy(self.options.path, dtype=self.options.dtype, device=self.options.device)
        return self._policy

    @property
    def card(self) -> AgentCard:
        """How the policy acts: protocol, prompt and limits."""
        return self.policy.card

    def rules_for(self, rules: Rules) -> Rules:
        """The evaluation's rules in the protocol and with the prompt that the policy was trained with."""
        return card_rules(rules, self.card)

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode; see `Player.play`."""
        if self.pool is not None and len(episodes) > 1:
            self.pool.play(self.kind, self.options, episodes, engine, on_done)
        else:
            self.play_here(episodes, engine, on_done)

    def play_here(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode in this process."""
        from .rollout import stream

        if not episodes:
            return
        sampler = self.make_sampler(len(episodes), episodes[0].rules.protocol.stop_strings)
        for index, _ in stream(episodes, engine, sampler, self.policy.tokenizer, chat=self.card.chat):
            if on_done:
                on_done(episodes[index])

    def make_sampler(self, rows: int, stop_strings: Sequence[str]) -> Sampler:
        """A sampler for `rows` episodes that ends turns at `stop_strings`."""
        from .sampler import Sampler

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
    """The evaluation's rules in the protocol and with the prompt of a policy's card."""
    protocol = get_protocol(card.protocol)
    return replace(rules, protocol=protocol, prompt_template=card.prompt_template or protocol.prompt_template)


def player_kinds() -> dict[str, type[Any]]:
    """The players that are built on a policy, by the name that worker processes know them by."""
    from .baselines import DirectPlayer, OwnQueryRagPlayer, RagPlayer

    return {cls.kind: cls for cls in (PolicyPlayer, DirectPlayer, RagPlayer, OwnQueryRagPlayer)}


def make_player(
    spec: str, *, policy: PolicyOptions, pool: WorkerPool | None = None, concurrency: int = 1, seed: int = 0
) -> Player:
    """A player from its description.

    Args:
        spec: a policy directory, `"tiny"` (the shipped base model), `"module:callable"`, or `"baseline:NAME"`; with
            `"LABEL="` before it the player is called LABEL in results.
        policy: options of policies; its path is the model under `direct` and `rag`.
        pool: worker processes for players that are built on a policy.
        concurrency: episodes that a third party's agent plays at the same time.
        seed: seed of the random baseline.

    Raises:
        ConfigError: for a description that fits nothing; the nearest name is suggested.
    """
    from .baselines import BASELINES, OraclePlayer, RandomPlayer

    label, equals, rest = spec.partition("=")
    if equals and label and not any(mark in label for mark in ":/\\"):
        name, spec = label, rest
    else:
        name = spec
    if spec == "tiny":
        return PolicyPlayer(replace(policy, path=str(policy_path(spec))), name=name, pool=pool)
    if Path(spec).is_dir():
        return PolicyPlayer(replace(policy, path=spec), name=name, pool=pool)
    head, colon, tail = spec.partition(":")
    if colon and head == "baseline":
        if tail not in BASELINES:
            raise unknown_name("baseline", tail, BASELINES)
        if tail == "random":
            return RandomPlayer(seed=seed, name=name)
        if tail == "oracle":
            return OraclePlayer(name=name)
        player: Player = player_kinds()[tail](policy, name=name, pool=pool)
        return player
    if colon:
        return CallablePlayer(spec, name=name, concurrency=concurrency)
    if spec in BASELINES:
        raise ConfigError(f"agent {spec!r}: there is no such directory. Did you mean 'baseline:{spec}'?")
    raise ConfigError(
        f"agent {spec!r} is no directory{_near_directory(spec)}. Expected a policy directory (for example "
        f"runs/quickstart/policy), a third party's module:callable, or one of: "
        f"{', '.join(f'baseline:{name}' for name in BASELINES)}."
    )


def fingerprint(player: Player) -> str:
    """A text that changes when the player does: its own code, a policy's files, the source of a third party's agent."""
    digest = hashlib.blake2b(type(player).__qualname__.encode(), digest_size=16)
    files = [Path(inspect.getfile(type(player)))]
    if isinstance(player, PolicyPlayer):
        digest.update(repr(replace(player.options, path="", slots=1, device="")).encode())
        files += sorted(f for f in Path(player.options.path).glob("*") if f.suffix in (".json", ".safetensors", ".bin"))
    elif isinstance(player, CallablePlayer) and player.source is not None:
        files.append(player.source)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _near_directory(spec: str) -> str:
    """Which directory was probably meant, as a clause of a sentence."""
    path = Path(spec)
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return ""
    wrong = path.relative_to(existing).parts[0] if existing != Path() else path.parts[0]
    near = difflib.get_close_matches(wrong, [d.name for d in existing.iterdir() if d.is_dir()], n=1, cutoff=0.5)
    return f" (did you mean {str(existing / near[0])!r}?)" if near else ""
