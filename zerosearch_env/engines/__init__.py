"""Search engines: they answer the policy's queries.

`make_engine` builds an engine from its description; `register_engine` adds your own kind.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import BatchedEngine, EngineParts, SearchEngine, engine_parts
from .kinds import add_noise_kinds
from .registry import EngineFactory, engine_name, loads_code, make_engine, register_engine

if TYPE_CHECKING:
    from .corpus.engine import CorpusEngine
    from .dense.engine import DenseEngine
    from .testing import ConstantEngine, FailingEngine, check_engine

# The module of a kind is imported when an engine of that kind is built.
register_engine("corpus", f"{__name__}.corpus.engine:corpus_engine")
register_engine("dense", f"{__name__}.dense.engine:dense_engine")
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
    "add_noise_kinds",
    "check_engine",
    "engine_name",
    "engine_parts",
    "loads_code",
    "make_engine",
    "register_engine",
]


_MODULE_OF = {
    "CorpusEngine": "corpus.engine",
    "DenseEngine": "dense.engine",
    "ConstantEngine": "testing",
    "FailingEngine": "testing",
    "check_engine": "testing",
}


def __getattr__(name: str) -> Any:
    """Import the module of an engine when its class is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
