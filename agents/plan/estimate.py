"""Estimates for a run on GPUs: bytes of memory per GPU, floating-point operations and seconds per step.

All functions are pure, computed from the architecture's dimensions, the run's configuration and the hardware's figures.
Weights are counted exactly. Activations are the tensors that autograd saves in a Transformers layer. Times are
operations / (assumed share of the peak), and bytes / (assumed share of the bandwidth): estimates, not measurements.

Names end in their unit unless they are counts: `_bytes`, `_flops`, `_s`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zerosearch_env.checks import check_whole_number
from zerosearch_env.errors import ConfigError, require
from zerosearch_env.game.rules import Rules, make_rules

from ..config.agent import RULE_OPTIONS
from ..config.train import TrainConfig
from ..forward.chunks import CHUNK_BYTES
from ..policy.card import AgentCard, card_rules, read_card, token_limits
from ..policy.files import local_policy

FP32, BF16 = 4, 2


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a dense decoder of the Qwen2, Qwen3 or Llama family."""

    kind: str
    """`model_type`: "qwen2" (biases in query, key, value), "qwen3" (norms of query and key) or "llama"."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    tied: bool
    """Whether input embedding and vocabulary head share one matrix."""

    @property
    def queries(self) -> int:
        """Total width of all query heads."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Total width of all key heads; the same for value heads."""
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        attention = self.hidden * (2 * self.queries + 2 * self.keys)
        biases = self.queries + 2 * self.keys if self.kind == "qwen2" else 0
        head_norms = 2 * self.head_dim if self.kind == "qwen3" else 0
        return attention + biases + head_norms + 3 * self.hidden * self.mlp + 2 * self.hidden

    @property
    def root_parameters(self) -> int:
        """Parameters outside the layers: embedding, vocabulary head (if not tied) and final norm."""
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; shared ones count once."""
        return self.layers * self.layer_parameters + self.root_parameters


def _qwen3(hidden: int, layers: int, heads: int, mlp: int, *, tied: bool) -> Architecture:
    return Architecture("qwen3", hidden, layers, heads, 8, 128, mlp, 151_936, tied)


MODELS = {
    "Qwen2.5-0.5B": Architecture("qwen2", 896, 24, 14, 2, 64, 4864, 151_936, True),
    "Qwen2.5-1.5B": Architecture("qwen2", 1536, 28, 12, 2, 128, 8960, 151_936, True),
    "Qwen2.5-3B": Architecture("qwen2", 2048, 36, 16, 2, 128, 11_008, 151_936, True),
    "Qwen2.5-7B": Architecture("qwen2", 3584, 28, 28, 4, 128, 18_944, 152_064, False),
    "Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen3-8B": _qwen3(4096, 36, 32, 12_288, tied=False),
    "Llama-3.2-1B": Architecture("llama", 2048, 16, 32, 8, 64, 8192, 128_256, True),
    "Llama-3.2-3B": Architecture("llama", 3072, 28, 24, 8, 128, 8192, 128_256, True),
}
"""Public models by name, with the dimensions in their `config.json`."""


def read_architecture(values: Mapping[str, Any], where: str) -> Architecture:
    """The architecture described by a `config.json`.

    Args:
        values: content of the file.
        where: name of the file in error messages.

    Raises:
        ConfigError: the architecture is not supported, or a number is missing.
    """
    kind = values.get("model_type")
    if kind not in ("qwen2", "qwen3", "llama"):
        raise ConfigError(f"{where} is of the kind {kind!r}; the plan's arithmetic covers qwen2, qwen3 and llama.")
    try:
        heads = int(values["num_attention_heads"])
        return Architecture(
            kind=kind,
            hidden=int(values["hidden_size"]),
            layers=int(values["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(values.get("num_key_value_heads") or heads),
            head_dim=int(values.get("head_dim") or values["hidden_size"] // heads),
            mlp=int(values["intermediate_size"]),
            vocab=int(values["vocab_size"]),
            tied=bool(values.get("tie_word_embeddings", False)),
        )
    except KeyError as cause:
        raise ConfigError(f"{where} has no {cause.args[0]!r}; give the directory of a complete model.") from cause


def transformers_config(model: Architecture, **options: Any) -> Any:
    """The Transformers configuration of these numbers; `options` are further fields of it.

    Raises:
        MissingExtraError: when Transformers is not installed.
    """
    transformers = require("transformers")
    kinds = {"qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "llama": "LlamaConfig"}
    if model.kind != "qwen2":  # Qwen2 has no such option: its heads are hidden / heads wide
        options["head_dim"] = model.head_dim
    return getattr(transformers, kinds[model.kind])(
        vocab_size=model.vocab,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        intermediate_size=model.mlp,
        tie_word_embeddings=model.tied,
        **options,
    )


@dataclass(frozen=True)
class Hardware:
    """Figures of a GPU, and the share of them that a run reaches. The defaults describe an H100 SXM."""

    memory_gb: float = 80.0
    """Memory of one GPU, in GB (10^9 bytes)."""
    tflops: float = 989.0
    """Peak of dense matrix products in bfloat16, in 10^12 operations per second."""
    tflops_fp32: float = 67.0
    """Peak of dense matrix products in float32, in 10^12 operations per second."""
    bandwidth_tb: float = 3.35
    """Memory bandwidth, in 10^12 bytes per second."""
    mfu: float = 0.4
    """Share of the peak that updates and prefill reach (model FLOPs utilisation)."""
    bandwidth_share: float = 0.6
    """Share of the bandwidth that decoding reaches."""
    reserve_gb: float = 4.0
    """Memory reserved for the CUDA context, NCCL buffers and fragmentation, in 10^9 bytes."""


@dataclass(frozen=True)
class Load:
    """The work of one training step, and how it is computed."""

    gpus: int
    """Processes, one per GPU. With more than one, FSDP shards over all of them."""
    episode_tokens: int
    """Mean tokens per episode, prompt and documents included."""
    sampled_tokens: int
    """Mean tokens per episode that the policy samples."""
    bf16: bool = False
    """Whether matrix products, activations and gathered weights are bfloat16."""
    checkpointing: bool = False
    """Whether activations inside a layer are recomputed in the backward pass."""


@dataclass(frozen=True)
class RunPlan:
    """Memory per GPU by part, and time per step by part."""

    memory_bytes: dict[str, int]
    seconds: dict[str, float]
    tokens_per_second: float
    """Tokens of all episodes / time of the whole step."""
    fits: bool


def activation_bytes(model: Architecture, tokens: int, *, bf16: bool, checkpointing: bool) -> int:
    """Bytes that autograd saves in the layers for a micro-batch of `tokens` tokens.

    Per token, one layer saves:

        two norms            input in float32, normalised, output: 3 x hidden each
        two residual sums    2 x hidden
        attention            queries and keys before and after rotation, values, output: 3 x queries + 3 x keys
        MLP                  gate, up, activated gate, product: 4 x mlp

    Attention is assumed to be fused, so no scores are saved. With checkpointing every layer saves only its input, and
    the rest exists for one layer at a time.
    """
    size = BF16 if bf16 else FP32
    norms = 2 * model.hidden * (FP32 + 2 * size)
    inside = 2 * model.hidden + 3 * model.queries + 3 * model.keys + 4 * model.mlp
    layer = norms + size * inside
    if checkpointing:
        return tokens * (model.layers * model.hidden * size + layer)
    return tokens * model.layers * layer


def memory(model: Architecture, config: TrainConfig, load: Load) -> dict[str, int]:
    """Bytes per GPU by part. Their sum estimates the peak, since the parts exist (almost) at the same time."""
    algorithm, whole = config.algorithm, model.parameters
    share = math.ceil(whole / load.gpus)
    size = BF16 if load.bf16 else FP32
    parts = {"weights": FP32 * share, "gradients": FP32 * share, "optimizer (AdamW)": 2 * FP32 * share}
    if algorithm.kl_coefficient > 0:
        parts["reference"] = FP32 * share
    if algorithm.advantage == "gae" and config.critic.trunk == "separate":
        head = model.vocab * model.hidden if not model.tied else 0
        parts["critic with its optimizer"] = 4 * FP32 * math.ceil((whole - head) / load.gpus)
    layers = model.layers * model.layer_parameters
    sampler_size = FP32
    if load.gpus > 1:
        # FSDP gathers the root group and its gradient for the whole backward pass, and two layers at a time: the
        # current one and the prefetched next one.
        parts["gathered weights"] = (size + FP32) * model.root_parameters + (2 * size + FP32) * model.layer_parameters
        sampler_size = BF16 if config.scale.sampler_dtype == "bfloat16" else FP32
        parts["sampler's whole copy"] = sampler_size * whole
    parts["sampler's fused layers"] = sampler_size * layers
    context = context_tokens(config)
    slots = min(config.rollout.slots, math.ceil(config.rollout.prompts / load.gpus) * config.rollout.group_size)
    parts["sampler's cache"] = 2 * model.layers * model.keys * slots * context * sampler_size
    tokens = max(config.optimizer.micro_batch_tokens, context)
    parts["activations"] = activation_bytes(model, tokens, bf16=load.bf16, checkpointing=load.checkpointing)
    # Logits, probabilities and the logits' gradient of one chunk, in float32.
    parts["logits of a chunk"] = 3 * CHUNK_BYTES["cuda"]
    return parts


def context_tokens(config: TrainConfig) -> int:
    """Maximum tokens per episode: of the configuration, else of the policy's card, else of its protocol."""
    if config.rollout.context_tokens is not None:
        return config.rollout.context_tokens
    card, rules = planned_rules(config)
    return token_limits(card, rules.protocol).context_tokens


def planned_rules(config: TrainConfig) -> tuple[AgentCard, Rules]:
    """The card of the run's policy, or the defaults if it is not on this machine, and the rules of the run."""
    card = read_card(local_policy(config.policy)) or AgentCard()
    return card, card_rules(make_rules(**config.environment.given(RULE_OPTIONS)), card)


def forward_flops(model: Architecture, tokens: int, length: int, heads: int) -> int:
    """Operations of a forward pass: 2 per weight and token, plus causal attention at a mean length of `length / 2`.

    Args:
        model: the architecture.
        tokens: tokens that go through the layers.
        length: tokens per row.
        heads: tokens that go through the vocabulary head.
    """
    products = model.layers * (model.layer_parameters - 2 * model.hidden)
    attention = 2 * model.layers * model.queries * length
    return 2 * products * tokens + attention * tokens + 2 * model.vocab * model.hidden * heads


def step_seconds(model: Architecture, config: TrainConfig, hardware: Hardware, load: Load) -> dict[str, float]:
    """Seconds per step by part: sampling (decode and prefill), scoring, update. Searches count as free."""
    episodes = config.rollout.prompts * config.rollout.group_size
    length, sampled = load.episode_tokens, load.sampled_tokens
    peak = hardware.tflops if load.bf16 else hardware.tflops_fp32
    rate = peak * 1e12 * hardware.mfu * load.gpus
    once = forward_flops(model, episodes * length, length, episodes * sampled) / rate
    scored = int(config.algorithm.recompute_logprobs) + int(config.algorithm.kl_coefficient > 0)
    passes = config.algorithm.epochs * (4 if load.checkpointing else 3)
    if config.algorithm.advantage == "gae":
        separate = config.critic.trunk == "separate"
        scored += 1 if separate or not config.algorithm.recompute_logprobs else 0
        passes *= 2 if separate else 1

    size = BF16 if load.gpus > 1 and config.scale.sampler_dtype == "bfloat16" else FP32
    sampler_rate = (hardware.tflops if size == BF16 else hardware.tflops_fp32) * 1e12 * hardware.mfu * load.gpus
    mine = math.ceil(config.rollout.prompts / load.gpus) * config.rollout.group_size
    slots = min(config.rollout.slots, mine)
    cached = 2 * model.layers * model.keys * slots * (length // 2) * size
    read = (model.layers * model.layer_parameters + model.vocab * model.hidden) * size + cached
    turns = math.ceil(mine / slots) * sampled
    prefill = forward_flops(model, episodes * (length - sampled), length, 0) / sampler_rate
    return {
        "decode": turns * read / (hardware.bandwidth_tb * 1e12 * hardware.bandwidth_share),
        "prefill": prefill,
        "scoring": scored * once,
        "update": passes * once,
    }


def make_plan(model: Architecture, config: TrainConfig, hardware: Hardware, load: Load) -> RunPlan:
    """Plan a run on `load.gpus` GPUs.

    Raises:
        ConfigError: a number in `load` is invalid.
    """
    check_whole_number("gpus", load.gpus)
    if not 0 < load.sampled_tokens <= load.episode_tokens <= context_tokens(config):
        raise ConfigError(
            f"sampled tokens ({load.sampled_tokens}) must be positive and at most the tokens per episode "
            f"({load.episode_tokens}), which must be at most the context ({context_tokens(config)})."
        )
    parts, seconds = memory(model, config, load), step_seconds(model, config, hardware, load)
    tokens = config.rollout.prompts * config.rollout.group_size * load.episode_tokens
    fits = sum(parts.values()) <= (hardware.memory_gb - hardware.reserve_gb) * 1e9
    return RunPlan(parts, seconds, tokens / sum(seconds.values()), fits)
