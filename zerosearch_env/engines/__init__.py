"""Search engines: they answer the policy's queries.

`make_engine` builds an engine from its description; `register_engine` adds your own kind.
"""

from __future__ import annotations

from .base import BatchedEngine, EngineParts, SearchEngine, engine_parts
from .corpus.engine import CorpusEngine, corpus_engine
from .dense.engine import DenseEngine, dense_engine
from .registry import EngineFactory, make_engine, register_engine
from .remote.make import retrieve_engine, web_engine
from .simulated.make import simulated_engine
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
    "EngineParts",
    "FailingEngine",
    "SearchEngine",
    "check_engine",
    "engine_parts",
    "make_engine",
    "register_engine",
]
