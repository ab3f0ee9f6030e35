"""ZeroSearch: question answering with a search engine whose noise level is under control, as a Gymnasium environment.

    import gymnasium as gym, zerosearch_env
    env = gym.make("ZeroSearch-v0", noise_schedule="exp")

Importing this package registers the environment and loads nothing heavy; the names below load at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from zerosearch_env.datasets import load_dataset as load_dataset
    from zerosearch_env.datasets.world import WorldConfig as WorldConfig
    from zerosearch_env.datasets.world import make_world as make_world
    from zerosearch_env.engines import BatchedEngine as BatchedEngine
    from zerosearch_env.engines import ConstantEngine as ConstantEngine
    from zerosearch_env.engines import CorpusEngine as CorpusEngine
    from zerosearch_env.engines import DenseEngine as DenseEngine
    from zerosearch_env.engines import SearchEngine as SearchEngine
    from zerosearch_env.engines import check_engine as check_engine
    from zerosearch_env.engines import make_engine as make_engine
    from zerosearch_env.engines import register_engine as register_engine
    from zerosearch_env.env import ZeroSearchEnv as ZeroSearchEnv
    from zerosearch_env.episode import Episode as Episode
    from zerosearch_env.episode import Rules as Rules
    from zerosearch_env.episode import make_rules as make_rules
    from zerosearch_env.errors import CheckpointError as CheckpointError
    from zerosearch_env.errors import ConfigError as ConfigError
    from zerosearch_env.errors import DataError as DataError
    from zerosearch_env.errors import EngineError as EngineError
    from zerosearch_env.errors import EpisodeError as EpisodeError
    from zerosearch_env.errors import MissingExtraError as MissingExtraError
    from zerosearch_env.errors import QuotaError as QuotaError
    from zerosearch_env.errors import ZeroSearchError as ZeroSearchError
    from zerosearch_env.noise import get_schedule as get_schedule
    from zerosearch_env.protocols import PROTOCOLS as PROTOCOLS
    from zerosearch_env.protocols import ParsedAction as ParsedAction
    from zerosearch_env.protocols import Protocol as Protocol
    from zerosearch_env.protocols import get_protocol as get_protocol
    from zerosearch_env.rewards import get_reward as get_reward
    from zerosearch_env.spaces import UnicodeText as UnicodeText
    from zerosearch_env.transcripts import TranscriptWriter as TranscriptWriter
    from zerosearch_env.transcripts import read_transcripts as read_transcripts
    from zerosearch_env.transcripts import transcript_record as transcript_record
    from zerosearch_env.types import Dataset as Dataset
    from zerosearch_env.types import Document as Document
    from zerosearch_env.types import Paragraph as Paragraph
    from zerosearch_env.types import Question as Question
    from zerosearch_env.types import Scores as Scores
    from zerosearch_env.types import SearchRequest as SearchRequest
    from zerosearch_env.types import SearchResult as SearchResult
    from zerosearch_env.types import Step as Step
    from zerosearch_env.types import StopReason as StopReason
    from zerosearch_env.types import Turn as Turn
    from zerosearch_env.vector_env import ZeroSearchVectorEnv as ZeroSearchVectorEnv
    from zerosearch_env.wrappers import TranscriptObservation as TranscriptObservation
    from zerosearch_env.wrappers import TranscriptRecorder as TranscriptRecorder
    from zerosearch_env.wrappers import VectorTranscriptObservation as VectorTranscriptObservation
    from zerosearch_env.wrappers import VectorTranscriptRecorder as VectorTranscriptRecorder

__version__ = "0.1.0"

ENV_ID = "ZeroSearch-v0"

_NAMES = {
    "datasets": "load_dataset",
    "datasets.world": "WorldConfig make_world",
    "engines": (
        "BatchedEngine ConstantEngine CorpusEngine DenseEngine SearchEngine check_engine make_engine register_engine"
    ),
    "env": "ZeroSearchEnv",
    "episode": "Episode Rules make_rules",
    "errors": "CheckpointError ConfigError DataError EngineError EpisodeError MissingExtraError "
    "QuotaError ZeroSearchError",
    "noise": "get_schedule",
    "protocols": "PROTOCOLS ParsedAction Protocol get_protocol",
    "rewards": "get_reward",
    "spaces": "UnicodeText",
    "transcripts": "TranscriptWriter read_transcripts transcript_record",
    "types": "Dataset Document Paragraph Question Scores SearchRequest SearchResult Step StopReason Turn",
    "vector_env": "ZeroSearchVectorEnv",
    "wrappers": "TranscriptObservation TranscriptRecorder VectorTranscriptObservation VectorTranscriptRecorder",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["ENV_ID", "__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        id=ENV_ID,
        entry_point="zerosearch_env.env:ZeroSearchEnv",
        vector_entry_point="zerosearch_env.vector_env:ZeroSearchVectorEnv",
    )
