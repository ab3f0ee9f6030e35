"""The configuration of a training run: frozen dataclasses, presets as TOML files, and the two ways between them.

The units of a field stand in the sentence under it. A preset names only what differs from the defaults.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro

from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.errors import ConfigError, unknown_name
from zerosearch_env.privacy import redact

from .alarms import AlarmConfig
from .algorithms import AlgorithmConfig, CriticConfig, apply_algorithm, check_algorithm
from .lora import LoraShape
from .vllm import VLLMConfig, check_staleness, parse_sampler


@dataclass(frozen=True)
class DataConfig:
    """Which questions are trained on."""

    dataset: str = "world"
    """The built-in world, a data file, or a hub name."""
    split: str = "train"
    """Split of the dataset."""
    limit: int | None = None
    """Most questions taken from it; unset: all."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world; used where `dataset` is "world"."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """The rules of an episode and the search engine. The protocol and the prompt are the policy's own (its card)."""

    search_engine: str = "corpus"
    """Specification of the search engine."""
    max_turns: int = 5
    """Turns that may search; then one last turn may only answer."""
    top_k: int = 5
    """Documents a search."""
    reward: str = "em"
    """Reward of an episode: "em", "f1" or "subem", each in [0, 1]."""
    noise_unit: Literal["search", "document"] = "search"
    """What one draw of the noise decides."""


@dataclass(frozen=True)
class CurriculumConfig:
    """Probability p that a search is noisy, as training goes on."""

    schedule: Literal["exp", "linear", "constant"] = "exp"
    """Its course from `start` to `end` over the steps ("constant": `end` throughout)."""
    start: float = 0.0
    """p at the start, in [0, 1]."""
    end: float = 0.5
    """p at the last step, in [0, 1]."""
    base: float = 4.0
    """Base of "exp": higher means later noise."""
    noise_draws: Literal["episode", "group"] = "episode"
    """Whether every episode draws its own noise (as in the paper) or the rollouts of one question share their draws."""


@dataclass(frozen=True)
class RolloutConfig:
    """How many episodes a step samples, and how."""

    prompts: int = 16
    """Questions a step."""
    group_size: int = 8
    """Rollouts a question."""
    temperature: float = 1.0
    """Sampling temperature; the learner divides its logits by the same."""
    turn_tokens: int | None = None
    """Most tokens sampled in one turn; unset: what the policy's card says."""
    context_tokens: int | None = None
    """Most tokens of an episode, prompt and documents included; unset: what the policy's card says."""
    slots: int = 64
    """Episodes decoded side by side in one worker; more wait. Memory grows with it, results do not change."""
    sampler: str = "local"
    """Who samples: "local", "vllm" (in this process) or "vllm:URL[,URL...]" (servers)."""
    max_staleness: int = 0
    """Steps by which the weights that sample a turn may be older than those that are trained; 0: on-policy."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 5
    """Steps of linear rise from zero to the peak."""
    final_fraction: float = 1.0
    """Learning rate at the last step over its peak; falls linearly after the rise. 1 keeps it constant."""
    weight_decay: float = 0.0
    """Decoupled weight decay; norms and biases never decay."""
    beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    beta2: float = 0.99
    """Decay of AdamW's mean of squared gradients."""
    max_grad_norm: float = 1.0
    """The gradient's L2 norm is cut to this."""
    micro_batch_tokens: int = 2048
    """Most tokens (padding included) that go through the model at once. Memory grows with it, results do not change."""
    packing: Literal["auto", "off", "sequences", "flex", "flash"] = "auto"
    """Rollouts behind each other in one row, without padding: "sequences" on any device, "flex" and "flash" through
    Transformers on a GPU; "off" pads. "auto" is "sequences" where the model allows it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the learner's matrix products; weights, gradients and optimizer state are float32 in any case."""
    gradient_checkpointing: bool = False
    """Compute the inside of every layer again in the backward pass: less memory, a quarter more time."""
    eight_bit: bool = False
    """Keep the optimizer's state in 8 bits instead of 32; needs a GPU and bitsandbytes."""


@dataclass(frozen=True)
class OutputConfig:
    """What is written into the run directory, and how often."""

    checkpoint_every: int | None = 10
    """Steps between checkpoints; unset: only at the end."""
    keep_checkpoints: int = 2
    """Checkpoints that stay; older ones are removed."""
    transcripts_every: int | None = 10
    """Steps between samples of transcripts; unset: none."""
    transcripts: int = 8
    """Rollouts written each time."""
    tensorboard: Annotated[bool, tyro.conf.arg(aliases=["--tensorboard"])] = False
    """Whether metrics also go to TensorBoard event files."""
    wandb: Annotated[bool, tyro.conf.arg(aliases=["--wandb"])] = False
    """Whether metrics also go to Weights & Biases; WANDB_MODE=offline keeps them on this machine."""
    wandb_project: str = "zerosearch"
    """Project of the run there."""


@dataclass(frozen=True)
class ScaleConfig:
    """How a run is spread over processes (docs/scale.md)."""

    fsdp: Literal["auto", "on", "off"] = "auto"
    """Whether weights, gradients and optimizer state are sharded; "auto": under torchrun with several processes."""
    sampler_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the whole copy that each process samples with where the policy is sharded; bfloat16 halves it."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    policy: str = "tiny"
    """Directory of the initial policy; "tiny": the base model shipped with the package."""
    output: str = "runs/train"
    """The run directory."""
    steps: int = 40
    """Training steps; the curriculum and the learning rate run over exactly these."""
    seed: int = 0
    """Everything random derives from it."""
    max_seconds: float | None = None
    """Stop after the step that passes this wall time, in seconds. Only cuts: the curriculum still runs over `steps`."""
    workers: int | None = None
    """Processes that share the work on a CPU; unset: the physical cores, at most 2, for small models, else 1."""
    device: str = "cpu"
    """Where the policy lives: "cpu" or "cuda"."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which questions are trained on."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """The rules of an episode and the search engine."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """How noisy searches are as training goes on."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How many episodes a step samples, and how."""
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    """vLLM as the sampler."""
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    """From rewards to the loss."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The value function, where the algorithm has one."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its learning rate."""
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    """What announces a collapse, and what to do then."""
    lora: LoraShape = field(default_factory=LoraShape)
    """Train adapters instead of the whole policy."""
    files: OutputConfig = field(default_factory=OutputConfig)
    """What is written into the run directory, and how often."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    """How the run is spread over processes."""

    def __post_init__(self) -> None:
        _check(self)


FREE_FIELDS = frozenset(
    {
        "output",
        "max_seconds",
        "workers",
        "device",
        "rollout.slots",
        "vllm.gpu_memory",
        "vllm.eager",
        "vllm.sync",
        "vllm.sync_folder",
        "vllm.sync_address",
        "vllm.timeout_s",
        "vllm.logprob_gap",
        "optimizer.micro_batch_tokens",
        "optimizer.packing",
        "optimizer.gradient_checkpointing",
        *(f"files.{entry.name}" for entry in dataclasses.fields(OutputConfig)),
        *(f"alarms.{entry.name}" for entry in dataclasses.fields(AlarmConfig)),
        *(f"scale.{entry.name}" for entry in dataclasses.fields(ScaleConfig)),
    }
)
"""Fields that a resumed run may change: they decide where and how fast, not what is learned (up to rounding).

The alarms are among them, since a run that one has stopped goes on with another action. With `rollout.max_staleness`
some of them also decide which weights sample a turn (docs/samplers.md).
"""


def preset_names() -> list[str]:
    """Names of the presets shipped with the package."""
    folder = resources.files(__package__) / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> TrainConfig:
    """The configuration of a shipped preset, or of a TOML file of one's own.

    Args:
        name: a name of `preset_names()`, or a path that ends in `.toml`.

    Raises:
        ConfigError: for an unknown name (the nearest is suggested) or a file with a wrong field or value.
    """
    if name.endswith(".toml"):
        return read_config(name)
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    text = (resources.files(__package__) / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_config(text, f"preset {name}")


def with_algorithm(config: TrainConfig, name: str) -> TrainConfig:
    """The configuration with another algorithm (`algorithms.ALGORITHMS`); everything else stays.

    Raises:
        ConfigError: when there is no such algorithm, or it does not fit the rest.
    """
    return dataclasses.replace(config, algorithm=apply_algorithm(config.algorithm, name))


def read_config(path: str | os.PathLike[str]) -> TrainConfig:
    """The configuration in a TOML file; fields that it does not name have their defaults."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as cause:
        raise ConfigError(f"the configuration {os.fspath(path)} cannot be read: {cause.strerror}.") from cause
    return parse_config(text, os.fspath(path))


def parse_config(text: str, where: str = "configuration") -> TrainConfig:
    """The configuration in a TOML text; `where` names it in errors."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise ConfigError(f"{where} is not valid TOML: {cause}.") from cause
    result = _build(TrainConfig, values, where, "")
    assert isinstance(result, TrainConfig)
    return result


def dump_config(config: TrainConfig) -> str:
    """The configuration as TOML; fields that are None are left out, since TOML has no null, and so are credentials."""
    return tomli_w.dumps(_without_none(dataclasses.asdict(config)))


def flatten_config(config: TrainConfig) -> dict[str, Any]:
    """Every leaf of the configuration under its dotted name, for example `"rollout.prompts"`."""
    return dict(_leaves(dataclasses.asdict(config), ""))


def config_differences(saved: TrainConfig, wanted: TrainConfig) -> list[str]:
    """Fields outside `FREE_FIELDS` that differ, each as a phrase `name: saved -> wanted`.

    Credentials do not count, and the servers of a sampler may have moved.
    """
    old, new = (
        {name: redact(value) if isinstance(value, str) else value for name, value in flatten_config(config).items()}
        for config in (saved, wanted)
    )
    for values in (old, new):
        values["rollout.sampler"] = parse_sampler(values["rollout.sampler"]).kind
    return [
        f"{name}: {old[name]!r} -> {new[name]!r}" for name in new if name not in FREE_FIELDS and old[name] != new[name]
    ]


def _leaves(values: Mapping[str, Any], prefix: str) -> typing.Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, Mapping) else _plain(value)
        for name, value in values.items()
        if value is not None
    }


def _plain(value: Any) -> Any:
    """A leaf as TOML has it: lists for tuples, texts without credentials."""
    return list(value) if isinstance(value, tuple) else redact(value) if isinstance(value, str) else value


def _build(kind: type, values: Mapping[str, Any], where: str, prefix: str) -> Any:
    """A dataclass of `kind` from a table of a TOML file, every value checked against its field's type."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise unknown_name(f"field of {where}", f"{prefix}{name}", [f"{prefix}{hint}" for hint in hints])
    return kind(**{name: _convert(hints[name], value, where, f"{prefix}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str, name: str) -> Any:
    """`value` as the type of its field: int where float is wanted, list where tuple; anything else must fit exactly."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {name} must be a table, got {value!r}.")
        return _build(hint, value, where, f"{name}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise unknown_name(f"{name} in {where}", value, map(str, arguments))
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert(next(argument for argument in arguments if argument is not types.NoneType), value, where, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where, name) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: {name} must be of type {getattr(hint, '__name__', hint)}, got {value!r}.")
    return value


_POSITIVE = (
    "steps", "workers", "max_seconds", "data.limit", "environment.max_turns", "environment.top_k", "rollout.prompts",
    "rollout.group_size", "rollout.temperature", "rollout.turn_tokens", "rollout.context_tokens", "rollout.slots",
    "algorithm.minibatches", "algorithm.epochs", "algorithm.importance_cap", "optimizer.learning_rate",
    "optimizer.max_grad_norm", "optimizer.micro_batch_tokens", "files.checkpoint_every", "files.keep_checkpoints",
    "files.transcripts_every", "files.transcripts", "algorithm.constant_length", "critic.learning_rate",
    "critic.value_clip", "vllm.gpu_memory", "vllm.timeout_s", "vllm.logprob_gap", "lora.alpha",
)  # fmt: skip
_NOT_NEGATIVE = (
    "algorithm.clip_high", "algorithm.kl_coefficient", "algorithm.entropy_coefficient",
    "algorithm.dynamic_sampling_rounds", "critic.value_coefficient", "critic.warmup_steps", "optimizer.warmup_steps",
    "optimizer.weight_decay", "lora.rank",
)  # fmt: skip
_FRACTIONS = (
    "curriculum.start", "curriculum.end", "algorithm.clip_low", "optimizer.final_fraction", "optimizer.beta1",
    "optimizer.beta2", "algorithm.gamma", "algorithm.gae_lambda", "vllm.gpu_memory",
)  # fmt: skip


def _check(config: TrainConfig) -> None:
    """Raises `ConfigError` for the first value out of its range, naming field, range and value."""
    values = flatten_config(config)
    rules = (
        (_POSITIVE, lambda value: value > 0, "positive"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (_FRACTIONS, lambda value: 0 <= value <= 1, "from 0 to 1"),
    )
    for names, fits, phrase in rules:
        for name in names:
            # `not fits` rather than its opposite: a NaN fits nothing.
            if values[name] is not None and not fits(values[name]):
                raise ConfigError(f"{name} must be {phrase}, got {values[name]!r}.")
    if config.algorithm.minibatches > config.rollout.prompts:
        raise ConfigError(
            f"algorithm.minibatches ({config.algorithm.minibatches}) must not exceed rollout.prompts "
            f"({config.rollout.prompts}): a group is never split between updates."
        )
    check_algorithm(config.algorithm, config.rollout.group_size)
    check_staleness(config.rollout.sampler, config.rollout.max_staleness)
