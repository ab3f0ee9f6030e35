"""Protocols: the tag grammars that search agents were trained with, as parsers and renderers.

Six are registered: `zerosearch`, `search-r1`, `r1-searcher`, `research`, `deepresearcher`, `hermes`. A protocol of your
own is a `Protocol` object; wherever a protocol's name is accepted, such an object is too.
"""

from zerosearch_env.protocols.base import INVALID, ParsedAction, Protocol
from zerosearch_env.protocols.hygiene import clean_query, defuse_tags
from zerosearch_env.protocols.registry import PROTOCOLS, get_protocol

__all__ = ["INVALID", "PROTOCOLS", "ParsedAction", "Protocol", "clean_query", "defuse_tags", "get_protocol"]
