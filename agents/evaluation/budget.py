"""What the agents of an evaluation spend, and the budget after which no further episode begins.

    --budget requests=1000 tokens=2e6 money=5 -> limits --+
    --price 0.15,0.6 --price big=2,8          -> prices --+-> Meter -> Spending: of the command, and of each cell

The counts are those of `WORK`: requests to servers with their retries (for agents without a server, turns), and the
tokens that models have read and written. Endpoints count them; for a model of this process, every turn reads its whole
context, as an endpoint would count it. Money is what these tokens cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zerosearch_env.checks import check_number
from zerosearch_env.errors import BudgetError, ConfigError, unknown_name
from zerosearch_env.progress import WORK, WorkCounts

from ..players.base import Player

LIMITS = ("requests", "tokens", "money")
_MILLION = 1e6


@dataclass(frozen=True)
class Price:
    """The price of tokens, in money per million tokens; the currency is the user's."""

    read: float
    written: float

    def of(self, read: int, written: int) -> float:
        """What so many tokens cost."""
        return (self.read * read + self.written * written) / _MILLION


@dataclass(frozen=True)
class Spending:
    """What was spent."""

    requests: int = 0
    """Requests to servers, retries included; for an agent without a server, its turns."""
    tokens_read: int = 0
    """Tokens that models have read."""
    tokens_written: int = 0
    """Tokens that models have written."""
    money: float | None = None
    """What the tokens cost; None without a price."""

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.tokens_read + self.tokens_written

    def __add__(self, other: Spending) -> Spending:
        """Both together. What one of them has no price for is left out of the money."""
        money = None if self.money is None and other.money is None else (self.money or 0.0) + (other.money or 0.0)
        return Spending(
            self.requests + other.requests,
            self.tokens_read + other.tokens_read,
            self.tokens_written + other.tokens_written,
            money,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the money if it has no price, and without tokens that are not counted."""
        tokens = {name: getattr(self, name) for name in ("tokens_read", "tokens_written") if getattr(self, name)}
        return {"requests": self.requests, **tokens, **({} if self.money is None else {"money": self.money})}


def money_text(money: float) -> str:
    """An amount of money: with two decimals, or with as many as it takes to show three digits of a small one."""
    return f"{money:,.2f}" if money >= 1 or money == 0 else f"{money:.3g}"


def read_budget(entries: Sequence[str]) -> dict[str, float]:
    """The limits of a budget: from `["requests=1000", "money=5"]` to numbers by name.

    Raises:
        ConfigError: an entry is not NAME=NUMBER with a name of `LIMITS` and a number above 0, or a name comes twice.
    """
    budget: dict[str, float] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        if name not in LIMITS:
            raise unknown_name("budget", name, LIMITS)
        try:
            number = float(text)
        except ValueError as cause:
            expected = f"expected {name}=NUMBER, for example {name}=1000, got {entry!r}"
            raise ConfigError(f"budget: {expected}") from cause
        if name in budget:
            raise ConfigError(f"budget: {name} is given twice")
        budget[name] = check_number(f"budget {name}", number, above=0)
    return budget


def read_prices(entries: Sequence[str]) -> dict[str, Price]:
    """The prices of tokens by the name of their agent; "" is that of all others.

    Args:
        entries: each is `READ,WRITTEN`, such as `0.15,0.6`, in money per million tokens, or `NAME=READ,WRITTEN` for
            the agent of that name.

    Raises:
        ConfigError: an entry does not end with two numbers of at least 0, or two are for the same agent.
    """
    prices: dict[str, Price] = {}
    for entry in entries:
        name, _, text = entry.rpartition("=")
        try:
            read, written = (float(part) for part in text.split(","))
        except ValueError as cause:
            raise ConfigError(
                "price: expected READ,WRITTEN, money per million tokens, for example 0.15,0.6, or NAME=READ,WRITTEN "
                f"for one agent, got {entry!r}"
            ) from cause
        if name in prices:
            raise ConfigError(f"price: that of {f'agent {name!r}' if name else 'all agents'} is given twice")
        prices[name] = Price(*(check_number(f"price {entry!r}", number, least=0) for number in (read, written)))
    return prices


class Meter:
    """Measures what the agents of a command spend, one cell after another, and says when its budget is used up.

    Args:
        budget: limits by name, of `LIMITS`; none by default.
        prices: the prices of the tokens of agents by their name, with that of all others under ""; none: money is not
            counted.
        players: who will play, if known: whether the budget can be kept with them is checked.

    Raises:
        ConfigError: money is limited and an agent's tokens have no price; tokens or money are limited and an agent's
            tokens are not known; or a price is for an agent that is not there or counts no tokens.
    """

    def __init__(
        self,
        budget: Mapping[str, float] | None = None,
        prices: Mapping[str, Price] | None = None,
        players: Iterable[Player] | None = None,
    ) -> None:
        self.budget, self.prices = dict(budget or {}), dict(prices or {})
        self._before = Spending(money=0.0 if self.prices else None)
        self._player: Player | None = None
        self._start = WORK.total()
        if "money" in self.budget and not self.prices:
            raise ConfigError(
                "budget money needs the price of tokens: pass --price READ,WRITTEN, in money per million tokens, or "
                "--price NAME=READ,WRITTEN for each agent"
            )
        if players is not None:
            self._check_players(list(players))

    def _check_players(self, players: Sequence[Player]) -> None:
        counted = [player.name for player in players if player.counts_tokens]
        if self.prices and not counted:
            raise ConfigError(
                "price: no agent has a model whose tokens are counted, so it applies to none; leave it out"
            )
        for name in self.prices.keys() - {"", *counted}:
            if name not in (player.name for player in players):
                raise unknown_name("agent in --price", name, [player.name for player in players])
            raise ConfigError(f"price: agent {name!r} has no model whose tokens are counted; leave its price out")
        if unknown := [player.name for player in players if player.unmetered and {"tokens", "money"} & {*self.budget}]:
            raise ConfigError(
                f"budget: the tokens of {', '.join(unknown)} are not known, since only the agent's own code sees its "
                "model; limit its turns instead: --budget requests=1000"
            )
        if "money" in self.budget and (free := [name for name in counted if self._price_of(name) is None]):
            raise ConfigError(
                f"budget money: the tokens of {', '.join(free)} have no price; pass --price {free[0]}=READ,WRITTEN, or "
                "--price READ,WRITTEN for all agents without their own"
            )

    def _price_of(self, agent: str) -> Price | None:
        return self.prices.get(agent, self.prices.get(""))

    def begin(self, player: Player) -> None:
        """Begin a cell of a player."""
        self._player, self._start = player, WORK.total()

    def end(self) -> Spending:
        """End the cell; returns what was spent in it."""
        cell = self._cell()
        self._before += cell
        self._player, self._start = None, WORK.total()
        return cell

    @property
    def spent(self) -> Spending:
        """What was spent so far."""
        return self._before + self._cell()

    @property
    def used_up(self) -> bool:
        """Whether a limit is reached."""
        return any(value >= limit for value, limit in self._limited())

    def check(self) -> None:
        """Called before an episode begins.

        Raises:
            BudgetError: a limit is reached.
            ConfigError: the server does not say how many tokens it counts, and a limit or the price depends on it.
        """
        player = self._player
        if player is not None and player.billed and self._needs_tokens(player) and self._counts().uncounted:
            raise ConfigError(
                f"agent {player.name!r}: its server answers without token counts (usage), which --price and "
                "--budget tokens or money need; leave them out, or limit requests: --budget requests=1000"
            )
        if self.used_up:
            raise BudgetError(f"the budget is used up: {self.describe()}")

    def _needs_tokens(self, player: Player) -> bool:
        return self._price_of(player.name) is not None or bool({"tokens", "money"} & {*self.budget})

    def describe(self) -> str:
        """What was spent, with the limits: `1,003 of 1,000 requests, 5,120 tokens read and 640 written, 0.42 money`."""
        spent = self.spent
        parts = [f"{spent.requests:,}{self._limit('requests')} requests"]
        if spent.tokens or "tokens" in self.budget:
            limit = f" ({spent.tokens:,}{self._limit('tokens')})" if "tokens" in self.budget else ""
            read = f"{spent.tokens_read:,} tokens read and " if spent.tokens_read else ""
            parts.append(f"{read}{spent.tokens_written:,}{'' if read else ' tokens'} written{limit}")
        if spent.money is not None:
            parts.append(f"{money_text(spent.money)}{self._limit('money')} money")
        return ", ".join(parts)

    def figures(self) -> str:
        """What is limited or has a price, for a progress bar: `12 of 1,000 requests, 0.42 of 5 money`; else ""."""
        spent = self.spent
        values = {
            "requests": f"{spent.requests:,}",
            "tokens": f"{spent.tokens:,}",
            "money": money_text(spent.money or 0),
        }
        shown = [name for name in LIMITS if name in self.budget or (name == "money" and self.prices)]
        return ", ".join(f"{values[name]}{self._limit(name)} {name}" for name in shown)

    def _limit(self, name: str) -> str:
        return f" of {self.budget[name]:,.10g}" if name in self.budget else ""

    def _limited(self) -> list[tuple[float, float]]:
        spent = self.spent
        return [(getattr(spent, name) or 0, limit) for name, limit in self.budget.items()]

    def _counts(self) -> WorkCounts:
        """What was counted in the cell."""
        return WorkCounts(*(now - then for now, then in zip(WORK.total(), self._start, strict=True)))

    def _cell(self) -> Spending:
        if self._player is None:
            return Spending()
        counts, price = self._counts(), self._price_of(self._player.name)
        money = None if price is None else price.of(counts.read, counts.tokens)
        return Spending(counts.requests, counts.read, counts.tokens, money)
