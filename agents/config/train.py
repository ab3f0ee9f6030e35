"""The options of a training run: frozen dataclasses, presets as TOML files, and conversion in both directions.

The docstring under each field gives its units. A preset lists only the values that differ from the defaults.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from zerosearch_env.checks import check_number
from zerosearch_env.datasets.options import ReadingOptions
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines.registry import loads_code
from zerosearch_env.errors import ConfigError, require, unknown_name
from zerosearch_env.game.noise import check_schedule
from zerosearch_env.game.noise_kinds import read_mixture, read_noise_kinds
from zerosearch_env.loading import names_code
from zerosearch_env.privacy import redact

from .agent import AgentChoices
from .alarms import AlarmConfig
from .algorithms import AlgorithmConfig, CriticConfig, apply_algorithm, check_algorithm
from .lora import LoraShape
from .tables import build, parse_toml, read_toml
from .vllm import VLLMConfig, check_staleness


@dataclass(frozen=True)
class DataConfig(ReadingOptions):
    """The training questions."""

    dataset: str = "world"
    """"world" (the built-in world), a file, a folder, or a name on the Hugging Face hub; several with commas, with
    weights as in "A=2,B=1"."""
    split: str = "train"
    """Split of the dataset."""
    limit: int | None = None
    """Maximum number of questions to use; unset: all."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world; used if `dataset` is "world"."""


@dataclass(frozen=True)
class EnvironmentConfig(AgentChoices):
    """The rules of an episode and the search engine; unset: the entry of the policy's card, else of its protocol."""

    search_engine: str = "corpus"
    """The search engine, for example "corpus", "simulated:hf:DIR" or your own file.py:attribute; with options as JSON:
    '{"kind": "simulated:hf:DIR", "cache": "searches.sqlite"}'."""
    reward: str = "em"
    """Reward of an episode: "em", "f1", "subem" or another name of docs/rewards.md, an LLM's verdict as
    judge:openai:URL[#MODEL], or your own file.py:function."""
    scores: tuple[str, ...] = ()
    """Additional scores for metrics and transcripts, each given like `reward`."""
    noise_unit: Literal["search", "document"] = "search"
    """Whether noise is drawn once per search or once per document."""
    noise_kind: tuple[str, ...] = ("distractor",)
    """What a noisy search returns (docs/noise.md): a kind such as "counterfactual", or a mixture such as
    "distractor=0.5,empty=0.5". Several are the stages of the run, each for the same number of steps."""


@dataclass(frozen=True)
class CurriculumConfig:
    """Schedule of the probability p that a search is noisy."""

    schedule: str = "exp"
    """Shape of the schedule from `start` to `end` over the steps: "exp", "linear" or "constant" (always `end`); or your
    own file.py:function from progress to p."""
    start: float = 0.0
    """p at the first step, in [0, 1]."""
    end: float = 0.5
    """p at the last step, in [0, 1]."""
    base: float = 4.0
    """Base of "exp": with a higher base the noise rises later."""
    noise_draws: Literal["episode", "group"] = "episode"
    """Whether each episode draws its own noise (as in the paper) or all rollouts of a question share the draws."""


@dataclass(frozen=True)
class RolloutConfig:
    """Number of episodes per step, and how they are sampled."""

    prompts: int = 16
    """Questions per step."""
    group_size: int = 8
    """Rollouts per question."""
    temperature: float = 1.0
    """Sampling temperature; the learner divides its logits by the same value."""
    turn_tokens: int | None = None
    """Maximum tokens sampled per turn; unset: the value on the policy's card, else the protocol's."""
    context_tokens: int | None = None
    """Maximum tokens per episode, including prompt and documents; unset: the value on the policy's card, else the
    protocol's, at most 4,096. The model's own context is never exceeded."""
    slots: int = 64
    """Episodes decoded in parallel per worker; others wait. More slots need more memory, results do not change."""
    sampler: str = "local"
    """What samples: "local", "vllm" (in this process) or "vllm:URL[,URL...]" (servers)."""
    max_staleness: int = 0
    """Maximum steps by which the sampling weights may lag behind the trained weights; 0: on-policy."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate schedule."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises linearly from zero to the peak."""
    final_fraction: float = 1.0
    """Final learning rate as a fraction of the peak; linear decay after the warm-up. 1 keeps it constant."""
    weight_decay: float = 0.0
    """Decoupled weight decay; it is never applied to norms and biases."""
    beta1: float = 0.9
    """Decay rate of AdamW's running mean of gradients."""
    beta2: float = 0.99
    """Decay rate of AdamW's running mean of squared gradients."""
    max_grad_norm: float = 1.0
    """The gradient is clipped to this L2 norm."""
    micro_batch_tokens: int = 1024
    """Maximum tokens, padding included, per forward pass. More tokens need more memory, results do not change."""
    packing: Literal["auto", "off", "sequences", "flex", "flash"] = "auto"
    """Concatenate rollouts in one row without padding: "sequences" on any device, "flex" and "flash" through
    Transformers on a GPU; "off" pads. "auto" is "sequences" if the model supports it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the learner's matrix products; weights, gradients and optimizer state are always float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a quarter more time."""
    eight_bit: bool = False
    """Store the optimizer state in 8 bits instead of 32; needs a GPU and bitsandbytes."""


@dataclass(frozen=True)
class OutputConfig:
    """Files written into the run directory, and how often."""

    checkpoint_every: int | None = 10
    """Steps between checkpoints; unset: only at the end."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep; older ones are removed."""
    transcripts_every: int | None = 10
    """Steps between transcripts; unset: none are written."""
    transcripts: int = 8
    """Rollouts per set of transcripts."""
    tensorboard: Annotated[bool, tyro.conf.arg(aliases=["--tensorboard"])] = False
    """Also write metrics to TensorBoard event files."""
    wandb: Annotated[bool, tyro.conf.arg(aliases=["--wandb"])] = False
    """Also send metrics to Weights & Biases; WANDB_MODE=offline keeps them on this machine."""
    wandb_project: str = "zerosearch"
    """Weights & Biases project of the run."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluations during the run: greedy episodes on questions that are not trained on. The best policy is kept."""

    every: int | None = None
    """Steps between evaluations; there is also one before the first step and one after the last. Unset: none."""
    questions: int = 64
    """Questions per evaluation, chosen by the seed; always the same ones."""
    noise: tuple[float, ...] = (0.0, 0.5)
    """Probabilities of a noisy search; every question is played at each of them."""
    noise_kind: str = "distractor"
    """What a noisy search of an evaluation returns: a kind or a mixture, as in `environment.noise_kind`."""
    dataset: str | None = None
    """Where the questions come from. Unset: from `data.dataset`, its split if it has one of that name; otherwise they
    are taken out of the training questions."""
    split: str = "test"
    """Split of that dataset."""


@dataclass(frozen=True)
class ScaleConfig:
    """How a run is distributed over processes (docs/scale.md)."""

    fsdp: Literal["auto", "on", "off"] = "auto"
    """Shard weights, gradients and optimizer state; "auto": only under torchrun with several processes."""
    sampler_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the full copy that each process samples with when the policy is sharded; bfloat16 halves its memory."""


@dataclass(frozen=True)
class TrainConfig:
    """All options of a training run."""

    policy: str = "tiny"
    """Directory of the initial policy, or its name on the Hugging Face Hub (ORG/NAME, ORG/NAME@REVISION); "tiny": the
    base model shipped with the package."""
    output: str = "runs/train"
    """The run directory."""
    steps: int = 40
    """Training steps; the curriculum and the learning rate schedule span exactly this many."""
    seed: int = 0
    """Seed of everything random in the run."""
    max_seconds: float | None = None
    """Stop after the step that exceeds this wall time, in seconds. Schedules still span all `steps`."""
    workers: int | None = None
    """Worker processes on a CPU; unset: the number of physical cores, at most 2, for small models, otherwise 1."""
    device: str = "cpu"
    """Device of the policy: "cpu" or "cuda"."""
    data: DataConfig = field(default_factory=DataConfig)
    """The training questions."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """The rules of an episode and the search engine."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Schedule of the search noise."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Number of episodes per step, and how they are sampled."""
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    """Options of vLLM, when it is the sampler."""
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    """How rewards become a loss."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The value function, if the algorithm uses one."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its learning rate schedule."""
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    """Bounds on metrics that detect a collapse, and the action to take."""
    lora: LoraShape = field(default_factory=LoraShape)
    """Train low-rank adapters instead of the whole policy."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluations on questions that are not trained on."""
    files: OutputConfig = field(default_factory=OutputConfig)
    """Files written into the run directory, and how often."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    """How the run is distributed over processes."""

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
"""Fields that a resumed run may change: they affect place and speed, not what is learned (up to rounding).

Alarms are included, so that a run stopped by an alarm can continue with a different action. With
`rollout.max_staleness` some of these fields also affect which weights sample a turn (docs/samplers.md).
"""


_PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets shipped with the package."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def load_preset(name: str, *, typed: Collection[str] = ()) -> TrainConfig:
    """Load a shipped preset or your own TOML file.

    Args:
        name: one of `preset_names()`, or a path that ends in `.toml`.
        typed: see `parse_config`.

    Raises:
        ConfigError: if the name is unknown (the nearest is suggested) or the file has a wrong field or value.
    """
    if name.endswith(".toml"):
        return read_config(name, typed=typed)
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    return parse_config(text, f"preset {name}")


def with_algorithm(config: TrainConfig, name: str) -> TrainConfig:
    """Return the configuration with another algorithm (`algorithms.ALGORITHMS`); everything else is unchanged.

    Raises:
        ConfigError: if there is no such algorithm, or it does not fit the other options.
    """
    return dataclasses.replace(config, algorithm=apply_algorithm(config.algorithm, name))


CODE_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "environment.search_engine": loads_code,
    "environment.reward": names_code,
    "environment.protocol": lambda protocol: protocol is not None and names_code(protocol),
    "environment.scores": names_code,
    "curriculum.schedule": names_code,
}
"""Fields that may name code to load, if the user typed it, each with the function that recognises it."""


def read_config(path: str | os.PathLike[str], *, typed: Collection[str] | None = ()) -> TrainConfig:
    """Read a configuration from a TOML file; missing fields get their defaults. For `typed` see `parse_config`."""
    return parse_config(read_toml(path, "configuration"), os.fspath(path), typed=typed)


def parse_config(text: str, where: str = "configuration", *, typed: Collection[str] | None = ()) -> TrainConfig:
    """Parse a configuration from a TOML string.

    Args:
        text: the TOML.
        where: the source, for error messages.
        typed: the descriptions of code (`file.py:attribute`) that the user has typed. Others in `CODE_FIELDS` are
            refused, since a file must not decide which code is run. None: they are kept, because the configuration is
            only compared.

    Raises:
        ConfigError: it is not TOML, a field is unknown or has a wrong type, or a field names code.
    """
    result = build(TrainConfig, parse_toml(text, where), where)
    if typed is not None:
        given = flatten_config(result)
        found = [(name, value) for name in CODE_FIELDS for value in _values(given[name])]
        code: dict[str, list[str]] = {}
        for name, value in found:
            if CODE_FIELDS[name](value) and value not in typed:
                code.setdefault(name, []).append(value)
        if code:
            options = [f"--{name.replace('_', '-')} {shlex.join(values)}" for name, values in code.items()]
            raise ConfigError(
                f"{where}: {', '.join(code)} names code, and code is only loaded if you type its name. If you trust "
                f"it, add: {' '.join(options)}"
            )
    return result


def _values(value: Any) -> list[Any]:
    """The values of a field that holds one or several."""
    return value if isinstance(value, list) else [value]


def dump_config(config: TrainConfig) -> str:
    """Write the configuration as TOML, without fields that are None (TOML has no null) and without credentials.

    Raises:
        MissingExtraError: the library that writes TOML is not installed.
    """
    return str(require("tomli_w").dumps(dataclasses.asdict(config, dict_factory=_table)))


def flatten_config(config: TrainConfig) -> dict[str, Any]:
    """All values of the configuration by dotted name, for example `"rollout.prompts"`."""
    return dict(_leaves(dataclasses.asdict(config), ""))


def shown_config(config: TrainConfig) -> dict[str, Any]:
    """As `flatten_config`, without credentials."""
    return {name: redact(value) if isinstance(value, str) else value for name, value in flatten_config(config).items()}


def _leaves(values: Mapping[str, Any], prefix: str) -> typing.Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _table(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a dataclass as a TOML table."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in entries if value is not None}
    return {name: redact(value) if isinstance(value, str) else value for name, value in plain.items()}


_POSITIVE = (
    "steps", "workers", "max_seconds", "data.limit", "environment.max_turns", "environment.top_k",
    "environment.max_observation_tokens", "rollout.prompts",
    "rollout.group_size", "rollout.temperature", "rollout.turn_tokens", "rollout.context_tokens", "rollout.slots",
    "algorithm.minibatches", "algorithm.epochs", "algorithm.importance_cap", "optimizer.learning_rate",
    "optimizer.max_grad_norm", "optimizer.micro_batch_tokens", "files.checkpoint_every", "files.keep_checkpoints",
    "files.transcripts_every", "files.transcripts", "algorithm.constant_length", "critic.learning_rate",
    "critic.value_clip", "evaluation.every", "evaluation.questions",
    "vllm.gpu_memory", "vllm.timeout_s", "vllm.logprob_gap", "lora.alpha",
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
    """Raise `ConfigError` for the first value out of range; the message names field, range and value."""
    given = {name: value for name, value in flatten_config(config).items() if value is not None}
    for name in filter(given.__contains__, _POSITIVE):
        check_number(name, given[name], above=0, most=math.inf)
    for name in filter(given.__contains__, _NOT_NEGATIVE):
        check_number(name, given[name], least=0, most=math.inf)
    for name in filter(given.__contains__, _FRACTIONS):
        check_number(name, given[name], least=0, most=1)
    curriculum = config.curriculum
    check_schedule(curriculum.schedule, start=curriculum.start, end=curriculum.end, base=curriculum.base)
    read_noise_kinds(config.environment.noise_kind)
    _check_evaluation(config)
    check_algorithm(config.algorithm, config.rollout.group_size)
    check_staleness(config.rollout.sampler, config.rollout.max_staleness)


def _check_evaluation(config: TrainConfig) -> None:
    evaluation = config.evaluation
    if not evaluation.noise:
        raise ConfigError("evaluation.noise must have at least one level, for example 0.")
    for level in evaluation.noise:
        check_number("evaluation.noise", level, least=0, most=1)
    if len(set(evaluation.noise)) < len(evaluation.noise):
        raise ConfigError(f"evaluation.noise has a level twice: {' '.join(f'{level:g}' for level in evaluation.noise)}")
    read_mixture(evaluation.noise_kind)
    if evaluation.every is not None and config.rollout.max_staleness:
        raise ConfigError(
            "evaluation.every needs rollout.max_staleness = 0: with rollouts that run ahead, the sampler is never free "
            "for an evaluation. Evaluate the checkpoints with `zerosearch eval` instead."
        )
