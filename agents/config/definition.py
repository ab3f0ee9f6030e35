"""The definition of a robustness benchmark: which questions, which noise, which rules. Data only, never code.

    v1.toml  ->  Definition  ->  the options of `zerosearch eval` of the same names
                     |
                     +-> values, hash  ->  results.json, where `zerosearch compare` checks them

The fields have the names of the options of `zerosearch eval` that they decide. The agents are not part of a definition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets.sources import includes_world
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines.registry import loads_code
from zerosearch_env.errors import ConfigError
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.noise_kinds import read_mixture
from zerosearch_env.identity import text_hash
from zerosearch_env.loading import names_code
from zerosearch_env.privacy import redact

from .tables import build

_HASH_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a benchmark fixes for every agent.

    Raises:
        ConfigError: a value is out of range, a kind of noise is unknown, or the dataset or the engine names code.
    """

    name: str
    """Its name in results. Two definitions that differ only by their names are the same."""
    dataset: str
    """As `--dataset`: "world", a file, a folder, or a name on the Hugging Face Hub."""
    columns: tuple[str, ...] = ()
    """As `--columns`: FIELD=COLUMN pairs for files with other names of columns."""
    split: str
    """Split of the dataset."""
    world: WorldConfig
    """Size and seed of the built-in world; without meaning for other datasets."""
    questions: int
    """Number of questions, at least 1: for each number of hops if `per_hop`, else in total. If the dataset has fewer,
    all of them."""
    per_hop: bool
    """Whether `questions` counts for each number of hops."""
    samples: int
    """Episodes per question, at least 1."""
    noise: tuple[float, ...]
    """Noise levels, each in [0, 1]."""
    noise_kind: tuple[str, ...]
    """Kinds or mixtures of noise (docs/noise.md), each played at every level."""
    noise_unit: Literal["search", "document"]
    """Whether noise is drawn once per search or once per document."""
    engine: str
    """The search engine, as `--engine`: a kind of this package, never your own code."""
    max_turns: int
    """Number of turns that may search. One last turn follows, which may only answer."""
    top_k: int
    """Documents per search."""
    abstentions: tuple[str, ...]
    """Answers that decline to answer."""
    seed: int
    """Decides which questions are chosen, and every noise draw."""

    def __post_init__(self) -> None:
        for name in ("name", "dataset", "split", "engine"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{self._where}: {name} is empty.")
        for name in ("questions", "samples", "max_turns", "top_k"):
            check_whole_number(f"{self._where}: {name}", getattr(self, name))
        check_whole_number(f"{self._where}: seed", self.seed, 0)
        for name in ("noise", "noise_kind", "abstentions"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{self._where}: {name} is empty; give at least one.")
            if len(set(values)) < len(values):
                raise ConfigError(f"{self._where}: {name} has a value twice: {list(values)!r}.")
        object.__setattr__(self, "noise", tuple(float(check_level(level)) for level in self.noise))
        object.__setattr__(self, "noise_kind", tuple(str(read_mixture(kind)) for kind in self.noise_kind))
        for name, is_code in (("dataset", names_code(self.dataset)), ("engine", loads_code(self.engine))):
            if is_code:
                value = getattr(self, name)
                raise ConfigError(
                    f"{self._where}: {name} = {value!r} names code, and a definition is data only: otherwise playing "
                    "that of somebody else would run their code. For your own, type it: "
                    f"zerosearch eval --{name} {value}"
                )

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> Definition:
        """Build a definition from a TOML table, or from its `values` in a results file.

        Args:
            values: the values of all fields.
            where: the source, for error messages.

        Raises:
            ConfigError: a field is unknown (the message suggests the nearest name) or missing, or a value is invalid.
        """
        return build(cls, {"world": {}, **values}, where)

    @property
    def values(self) -> dict[str, Any]:
        """Its values as plain JSON, without the name, and without the world if the dataset is another one."""
        values: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }
        values["engine"] = redact(self.engine)
        del values["name"]
        if includes_world(self.dataset):
            values["world"]["hops"] = list(self.world.hops)
        else:
            del values["world"]
        return values

    @property
    def hash(self) -> str:
        """See `definition_hash`."""
        return definition_hash(self.values)

    @property
    def record(self) -> dict[str, Any]:
        """What results say about it: its name, its hash and its values."""
        return {"name": self.name, "hash": self.hash, "values": self.values}

    @property
    def conditions(self) -> tuple[tuple[str, float], ...]:
        """Every (kind, level) that an agent is measured in. Without noise all kinds are the same."""
        return tuple((kind, level) for kind in self.noise_kind for level in self.noise)

    @property
    def played(self) -> int:
        """How many of `conditions` are played: one without noise, and every kind at every level above 0."""
        above = sum(level > 0 for level in self.noise)
        return len(self.noise_kind) * above + (above < len(self.noise))

    @property
    def decided(self) -> tuple[str, ...]:
        """The names of the options that it decides."""
        return tuple(field.name for field in fields(self) if field.name != "name")

    @property
    def _where(self) -> str:
        return f"the definition {self.name!r}"


def definition_hash(values: Mapping[str, Any]) -> str:
    """The hash of a definition: 16 hexadecimal digits that depend on its values only.

    Neither the name, the layout of the file, nor the order of levels, kinds and abstentions has any influence.

    Args:
        values: `Definition.values`, also as read from a results file.
    """
    ordered = {name: _in_order(value) for name, value in values.items() if name != "name"}
    return text_hash(json.dumps(ordered, sort_keys=True))[:_HASH_DIGITS]


def definition_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The values in which two definitions differ, each as `questions: 40 -> 200`; the order of lists does not count.

    Args:
        first: `Definition.values`.
        second: the values of the other one.
    """
    names = dict.fromkeys([*first, *second])
    return [
        f"{name}: {first.get(name)!r} -> {second.get(name)!r}"
        for name in names
        if _in_order(first.get(name)) != _in_order(second.get(name))
    ]


def _in_order(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, Sequence) and not isinstance(value, str) else value
