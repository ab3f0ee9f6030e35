"""ZeroSearch: a Gymnasium environment for question answering with a search engine that has a controllable noise level.

    import gymnasium as gym, zerosearch_env
    env = gym.make("ZeroSearch-v0", noise_schedule="exp")

Importing this package registers the environment and loads no heavy library. The names below are loaded at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from .datasets import load_dataset as load_dataset
    from .datasets.world.make import WorldConfig as WorldConfig
    from .datasets.world.make import make_world as make_world
    from .engines import BatchedEngine as BatchedEngine
    from .engines import ConstantEngine as ConstantEngine
    from .engines import CorpusEngine as CorpusEngine
    from .engines import DenseEngine as DenseEngine
    from .engines import SearchEngine as SearchEngine
    from .engines import check_engine as check_engine
    from .engines import make_engine as make_engine
    from .engines import register_engine as register_engine
    from .engines.kinds import add_noise_kinds as add_noise_kinds
    from .envs.infos import plain as plain
    from .envs.rows import rows as rows
    from .envs.session import Session as Session
    from .envs.sessions import SessionSource as SessionSource
    from .envs.single import ZeroSearchEnv as ZeroSearchEnv
    from .envs.spaces import UnicodeText as UnicodeText
    from .envs.vector import ZeroSearchVectorEnv as ZeroSearchVectorEnv
    from .envs.wrappers import TranscriptObservation as TranscriptObservation
    from .envs.wrappers import TranscriptRecorder as TranscriptRecorder
    from .envs.wrappers import VectorTranscriptObservation as VectorTranscriptObservation
    from .envs.wrappers import VectorTranscriptRecorder as VectorTranscriptRecorder
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import EngineError as EngineError
    from .errors import EpisodeError as EpisodeError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import QuotaError as QuotaError
    from .errors import UnjudgedError as UnjudgedError
    from .errors import ZeroSearchError as ZeroSearchError
    from .game.episode import Episode as Episode
    from .game.noise import get_schedule as get_schedule
    from .game.reward_registry import get_reward as get_reward
    from .game.rules import Rules as Rules
    from .game.rules import make_rules as make_rules
    from .protocols import PROTOCOLS as PROTOCOLS
    from .protocols import ParsedAction as ParsedAction
    from .protocols import Protocol as Protocol
    from .protocols import get_protocol as get_protocol
    from .protocols import register_protocol as register_protocol
    from .records.transcripts import TranscriptWriter as TranscriptWriter
    from .records.transcripts import read_transcripts as read_transcripts
    from .records.transcripts import transcript_record as transcript_record
    from .types import Dataset as Dataset
    from .types import Document as Document
    from .types import Paragraph as Paragraph
    from .types import Question as Question
    from .types import Scores as Scores
    from .types import SearchRequest as SearchRequest
    from .types import SearchResult as SearchResult
    from .types import Step as Step
    from .types import StopReason as StopReason
    from .types import Turn as Turn

__version__ = "0.2.0"

ENV_ID = "ZeroSearch-v0"
MENU_ENV_ID = "ZeroSearchMenu-v0"

_NAMES = {
    "datasets": "load_dataset",
    "datasets.world": "WorldConfig make_world",
    "engines": (
        "BatchedEngine ConstantEngine CorpusEngine DenseEngine SearchEngine check_engine make_engine register_engine"
    ),
    "engines.kinds": "add_noise_kinds",
    "envs.infos": "plain",
    "envs.rows": "rows",
    "envs.session": "Session",
    "envs.sessions": "SessionSource",
    "envs.single": "ZeroSearchEnv",
    "game.episode": "Episode",
    "game.rules": "Rules make_rules",
    "errors": "CheckpointError ConfigError DataError EngineError EpisodeError MissingExtraError "
    "QuotaError UnjudgedError ZeroSearchError",
    "game.noise": "get_schedule",
    "protocols": "PROTOCOLS ParsedAction Protocol get_protocol register_protocol",
    "game.reward_registry": "get_reward",
    "envs.spaces": "UnicodeText",
    "records.transcripts": "TranscriptWriter read_transcripts transcript_record",
    "types": "Dataset Document Paragraph Question Scores SearchRequest SearchResult Step StopReason Turn",
    "envs.vector": "ZeroSearchVectorEnv",
    "envs.wrappers": "TranscriptObservation TranscriptRecorder VectorTranscriptObservation VectorTranscriptRecorder",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["ENV_ID", "MENU_ENV_ID", "__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
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
        entry_point="zerosearch_env.envs.single:ZeroSearchEnv",
        vector_entry_point="zerosearch_env.envs.vector:ZeroSearchVectorEnv",
    )

if MENU_ENV_ID not in gymnasium.registry:
    gymnasium.register(
        id=MENU_ENV_ID,
        entry_point="zerosearch_env.integrations.menu.envs:MenuEnv",
        vector_entry_point="zerosearch_env.integrations.menu.envs:MenuVectorEnv",
    )
