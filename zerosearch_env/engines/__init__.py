"""Search engines: what answers the policy's queries.

`make_engine` builds one from its description; `register_engine` adds a kind of one's own.
"""

from __future__ import annotations

from .base import BatchedEngine, EngineFactory, SearchEngine, make_engine, register_engine
from .corpus import CorpusEngine, corpus_engine
from .dense import DenseEngine, dense_engine
from .remote_spec import retrieve_engine, web_engine
from .simulated_spec import simulated_engine
from .testing import ConstantEngine, FailingEngine, check_engine

register_engine("corpus", corpus_engine)
register_engine("dense", dense_engine)
register_engine("simulated", simulated_engine)
register_engine("retrieve", retrieve_engine)
for _provider in ("serpapi", "serper", "brave"):
    register_engine(_provider, web_engine(_provider))

__all__ = [
    "BatchedEngine",
    "ConstantEngine",
    "CorpusEngine",
    "DenseEngine",
    "EngineFactory",
    "FailingEngine",
    "SearchEngine",
    "check_engine",
    "make_engine",
    "register_engine",
]
