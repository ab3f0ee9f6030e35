"""Search engines: they answer the policy's queries.

`make_engine` builds an engine from its description; `register_engine` adds your own kind.
"""

from __future__ import annotations

from .base import BatchedEngine, EngineParts, SearchEngine, engine_parts
from .corpus.engine import CorpusEngine, corpus_engine
from .dense.engine import DenseEngine, dense_engine
from .registry import EngineFactory, engine_name, loads_code, make_engine, register_engine
from .testing import ConstantEngine, FailingEngine, check_engine

register_engine("corpus", corpus_engine)
register_engine("dense", dense_engine)
# These are imported when one is built.
register_engine("simulated", f"{__name__}.simulated.make:simulated_engine")
for _kind in ("retrieve", "serpapi", "serper", "brave"):
    register_engine(_kind, f"{__name__}.remote.make:{_kind}_engine")

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
    "engine_name",
    "engine_parts",
    "loads_code",
    "make_engine",
    "register_engine",
]
