"""Protocols: the tag grammars that search agents were trained with, as parsers and renderers.

Six are registered: `zerosearch`, `search-r1`, `r1-searcher`, `research`, `deepresearcher`, `hermes`. Your own
protocol is a `Protocol` object: pass it wherever a name is accepted, or `register_protocol` it and use its name.
"""

from . import known as known  # fills the registry
from .base import INVALID, PROTOCOLS, ParsedAction, Protocol, get_protocol, register_protocol
from .hygiene import clean_query, defuse_tags

__all__ = [
    "INVALID",
    "PROTOCOLS",
    "ParsedAction",
    "Protocol",
    "clean_query",
    "defuse_tags",
    "get_protocol",
    "register_protocol",
]
