"""The interface of a player, and the options of players: how a policy is sampled, and what follows a failure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from zerosearch_env.checks import check_number, check_whole_number
from zerosearch_env.engines.base import SearchEngine
from zerosearch_env.errors import ConfigError, unknown_name
from zerosearch_env.game.episode import Episode
from zerosearch_env.game.rules import Rules
from zerosearch_env.identity import file_hash, source_file

from ..config.agent import FORMAT_OPTIONS, RULE_OPTIONS

_CARD_OPTIONS = RULE_OPTIONS + FORMAT_OPTIONS

OnDone = Callable[[int], None]
"""Called with the position of an episode in the list, as soon as the episode is done."""
OnAgentError = Literal["stop", "retry", "skip"]


@runtime_checkable
class Player(Protocol):
    """Anything that can play episodes; a class that derives from it has the defaults."""

    name: str
    """Name of the player in results."""
    searches: bool = True
    """False if it never searches. Noise then has no effect, and one noise level represents all of them."""
    tagged: bool = False
    """True if it may depend on what no file shows, such as a server: a general `--agent-tag` is then meant for it."""

    one_by_one: bool = False
    """True if it takes an episode from the list when it begins it; other players take many at once."""
    counts_tokens: bool = False
    """True if the tokens that its model reads and writes are counted."""
    unmetered: bool = False
    """True if it may use models that this package knows nothing about: their tokens are not counted."""

    @property
    def billed(self) -> bool:
        """Whether its model is behind an endpoint, which may charge for tokens. It then counts its own requests."""
        return False

    @property
    def greedy(self) -> bool:
        """Whether it is known to decode greedily: with the same documents it writes the same episode again."""
        return False

    @property
    def code(self) -> str:
        """Hash of its code; "" if it is in no file."""
        file = source_file(self)
        return "" if file is None else file_hash(file)

    @property
    def identity(self) -> dict[str, str]:
        """What decides its turns, apart from its code and the rules: the parts of its record, by name."""
        return {}

    def check(self) -> None:
        """Check that it can play, before anything is played.

        Raises:
            ConfigError: it cannot.
            CheckpointError: its files are incomplete or damaged.
        """
        return

    def close(self) -> None:
        """Release what it holds: connections, threads, processes, models."""
        return

    def rules_for(self, rules: Rules) -> Rules:
        """The rules it plays by: the evaluation's rules, with the player's own protocol if it was trained with one."""
        return rules

    def notes(self, rules: Rules) -> list[str]:
        """What the user should know about how it is played with the evaluation's rules, one line each."""
        return []

    def play(self, episodes: Sequence[Episode], engine: SearchEngine, on_done: OnDone | None = None) -> None:
        """Play every episode until it is done.

        Args:
            episodes: new episodes, all from one cell of an evaluation. Each is made when it is first taken. If a budget
                is used up, taking another one raises `BudgetError`: a player that has others in progress plays these
                to their end first.
            engine: answers the searches.
            on_done: called with the position in `episodes` of each episode as soon as it is done, by one thread at a
                time. Afterwards `episodes` no longer holds it.
        """
        ...


def blocks(
    episodes: Sequence[Episode], on_done: OnDone | None, size: int = 2048
) -> Iterator[tuple[Sequence[Episode], OnDone | None]]:
    """Split episodes that are played side by side, so that only those of one block are held.

    Yields:
        Up to `size` episodes, and the `on_done` for their positions in the block.
    """
    for start in range(0, len(episodes), size):

        def shifted(position: int, start: int = start) -> None:
            assert on_done is not None
            on_done(start + position)

        yield episodes[start : start + size], None if on_done is None else shifted


@dataclass(frozen=True)
class PolicyOptions:
    """How a policy is loaded and sampled. Holds plain values only, so it can be sent to worker processes."""

    path: str
    """Directory of the policy."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling: the most probable tokens that together have this probability, in (0, 1]."""
    slots: int = 64
    """Episodes decoded in parallel in one process; changes speed and memory, not results."""
    turn_tokens: int | None = None
    """Maximum tokens sampled per turn; None: the value in the policy's card, else the protocol's."""
    context_tokens: int | None = None
    """Maximum tokens per episode; None: the value in the policy's card, else the protocol's, at most 4,096."""
    format: tuple[tuple[str, Any], ...] = ()
    """Entries of the card that are changed: names of `FORMAT_OPTIONS` with their values."""
    rules: tuple[tuple[str, Any], ...] = ()
    """What was given for this policy only: names of `RULE_OPTIONS` with their values. They replace the evaluation's."""
    device: str = "cpu"
    """Device of the model: "cpu" or "cuda"."""
    dtype: str = "auto"
    """Data type of the weights: "auto", "float32", "bfloat16" or "float16"; for "auto" see `policy_dtype`."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is out of range.
        """
        check_number("temperature", self.temperature, least=0)
        check_number("top_p", self.top_p, above=0, most=1)
        check_whole_number("slots", self.slots)
        for name in ("turn_tokens", "context_tokens"):
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name))
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"device: expected 'cpu' or 'cuda', got {self.device!r}")

    def changed(self, entries: Mapping[str, Any]) -> PolicyOptions:
        """The options with entries of a card and of sampling that were given for one agent.

        Args:
            entries: names of `RULE_OPTIONS`, `FORMAT_OPTIONS` or fields of this class, with their values.

        Raises:
            ConfigError: a value is out of range.
        """
        changes: dict[str, Any] = {name: value for name, value in entries.items() if name not in _CARD_OPTIONS}
        for field, names in (("rules", RULE_OPTIONS), ("format", FORMAT_OPTIONS)):
            given = {name: entries[name] for name in names if name in entries}
            changes[field] = tuple((dict(getattr(self, field)) | given).items())
        return replace(self, **changes)


@dataclass(frozen=True)
class AgentOptions:
    """How a third-party agent is played."""

    concurrency: int | None = None
    """Episodes played at the same time, each in its own thread; None: 1, and 16 for a model behind an endpoint. Their
    searches run at the same time if the engine waits for other machines, else in batches. Values above 1 need a
    function that is thread-safe, or a class."""
    on_error: OnAgentError = "stop"
    """What follows a failure of the agent: "stop" ends the evaluation, "skip" ends the episode as failed, "retry" asks
    again, at most `retries` times per episode, and then skips."""
    retries: int = 3
    """Number of retries per episode."""
    backoff_s: float = 1.0
    """Pause before the first retry, in seconds; it doubles with every further one."""
    turn_timeout_s: float | None = None
    """Time limit of a turn, in seconds, without the engine's time; None: no limit."""
    isolate: bool = False
    """Run the agent in its own process, which the gold answers never enter (`isolated.py`)."""

    def __post_init__(self) -> None:
        if self.concurrency is not None:
            check_whole_number("concurrency", self.concurrency)
        if self.on_error not in get_args(OnAgentError):
            raise unknown_name("on_agent_error", self.on_error, get_args(OnAgentError))
        check_whole_number("retries", self.retries)
        check_number("backoff_s", self.backoff_s, least=0)
        if self.turn_timeout_s is not None:
            check_number("turn_timeout_s", self.turn_timeout_s, above=0)

    def pause_s(self, failures: int) -> float:
        """Pause after so many failures in a row, in seconds; `failures` is at least 1."""
        return self.backoff_s * 2.0 ** (failures - 1)
