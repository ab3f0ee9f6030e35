"""Protocols: parsers and renderers for the tag grammars with which search agents are trained.

Six are registered: `zerosearch`, `search-r1`, `r1-searcher`, `research`, `deepresearcher`, `hermes`. To define your
own, make a `Protocol` object. Pass it wherever a name is accepted, or register it with `register_protocol`.
"""

from . import known as known  # fills the registry
from .base import INVALID, PROTOCOLS, ParsedAction, Protocol, ToolCall, get_protocol, register_protocol
from .hygiene import clean_query, defuse_tags

__all__ = [
    "INVALID",
    "PROTOCOLS",
    "ParsedAction",
    "Protocol",
    "ToolCall",
    "clean_query",
    "defuse_tags",
    "get_protocol",
    "register_protocol",
]
