"""The identity of players: records (`zerosearch_env.identity`) by which their earlier results are recognised."""

from __future__ import annotations

from collections.abc import Sequence

from zerosearch_env.errors import unknown_name
from zerosearch_env.game.rules import Rules
from zerosearch_env.identity import text_hash

from .base import Player


def player_identity(player: Player, tag: str = "", rules: Rules | None = None) -> dict[str, str]:
    """The record of a player: its code, its tag, its rules, a policy's files and options, or an endpoint's model.

    Args:
        player: the player.
        tag: what no file shows, such as the version of a model behind an endpoint.
        rules: the rules of the evaluation; None: they take no part in the record.
    """
    parts = {"code": text_hash(f"{type(player).__qualname__} {player.code}"), "tag": tag, **player.identity}
    if rules is not None:
        own = player.rules_for(rules)
        words = text_hash(repr((own.few_shot, own.prompt_template, own.invalid_notice, own.last_turn_notice)))
        parts["rules"] = f"{own.protocol.name}, {own.max_turns} turns, {own.top_k} documents, texts {words}"
    return {f"the {part} of the agent {player.name}": value for part, value in parts.items()}


def player_identities(
    players: Sequence[Player], tags: Sequence[str], rules: Rules | None = None
) -> dict[str, dict[str, str]]:
    """Name and record of each player.

    Args:
        players: the players; their names differ.
        tags: each is `"TAG"`, for all third-party agents and endpoints, or `"NAME=TAG"` for the player of that name.
        rules: see `player_identity`.

    Raises:
        ConfigError: a tag is for a player that is not there.
    """
    names = [player.name for player in players]
    tag_of: dict[str, str] = {}
    for entry in tags:
        name, _, tag = entry.rpartition("=")
        if name and name not in names:
            raise unknown_name("agent in --agent-tag", name, names)
        tag_of[name] = tag  # without a name: of all third-party agents
    records = {}
    for player in players:
        general = tag_of.get("", "") if player.tagged else ""
        records[player.name] = player_identity(player, tag_of.get(player.name, general), rules)
    return records
