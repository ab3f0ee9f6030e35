"""The identity of players: hashes that change when a player does, by which its earlier results are recognised."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zerosearch_env.errors import unknown_name
from zerosearch_env.identity import file_hash, folder_hash, source_hash

from .base import Player
from .policy import PolicyPlayer
from .third_party import CallablePlayer


def player_hash(player: Player, tag: str = "") -> str:
    """A hash that changes when the player does: of its code, a policy's files and options, a third-party agent's code.

    Args:
        player: the player.
        tag: what no file shows, such as the version of a model behind an endpoint.
    """
    parts = [type(player).__qualname__, file_hash(inspect.getfile(type(player))), tag]
    if isinstance(player, PolicyPlayer):
        options = player.options
        parts += [repr(replace(options, path="", slots=1, device="")), folder_hash(Path(options.path))]
    elif isinstance(player, CallablePlayer):
        parts.append("" if player.source is None else source_hash(player.source))
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def player_hashes(players: Sequence[Player], tags: Sequence[str]) -> dict[str, str]:
    """Name and hash of each player.

    Args:
        players: the players; their names differ.
        tags: each is `"TAG"`, for all third-party agents, or `"NAME=TAG"` for the player of that name.

    Raises:
        ConfigError: a tag is for a player that is not there.
    """
    by_name = {player.name: "" for player in players}
    general = ""
    for entry in tags:
        name, _, tag = entry.rpartition("=")
        if not name:
            general = tag
        elif name in by_name:
            by_name[name] = tag
        else:
            raise unknown_name("agent in --agent-tag", name, by_name)
    return {
        player.name: player_hash(
            player, by_name[player.name] or (general if isinstance(player, CallablePlayer) else "")
        )
        for player in players
    }
