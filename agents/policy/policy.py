"""Policies on disk and in memory: a causal language model, its tokenizer and a card with its settings.

A policy directory is an ordinary `save_pretrained` directory (safetensors, tokenizer) plus `zerosearch.json`. Every
library that reads Transformers checkpoints can read it, and any local causal language model is a policy without a card.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.checks import check_whole_number
from zerosearch_env.errors import CheckpointError, ConfigError, require, sentence, unknown_name
from zerosearch_env.files import replaced_directory, roll_back
from zerosearch_env.game.rules import Rules
from zerosearch_env.llm.chat import end_ids
from zerosearch_env.llm.local.devices import DTYPES, auto_dtype, check_device
from zerosearch_env.llm.quiet import no_progress_bars

from .card import (
    CARD_FILE,
    AgentCard,
    card_notes,
    card_rules,
    card_values,
    changed_card,
    decide_chat,
    read_card,
    trained_card,
)
from .files import check_complete, one_line, policy_path, read_json, stored_weights
from .model_card import MODEL_CARD_FILE, Provenance, model_card

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

_DTYPES = DTYPES[1:]


@dataclass(frozen=True)
class Policy:
    """A model with its tokenizer and card."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    card: AgentCard = field(default_factory=AgentCard)
    """Its `chat` is decided, whatever the card that was given says (`decide_chat`)."""

    def __post_init__(self) -> None:
        """Decide whether the policy plays with its chat template.

        Raises:
            ConfigError: see `decide_chat`.
        """
        object.__setattr__(self, "card", decide_chat(self.card, self.tokenizer))


def tiny_config(
    vocab_size: int,
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int | None = None,
    mlp: int = 384,
    head_dim: int | None = None,
    context_tokens: int = 4096,
    rope_theta: float = 10_000.0,
    tied: bool = True,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> Qwen3Config:
    """The configuration of a small Qwen3 model; with the defaults it has about 0.85M parameters without the vocabulary.

    Args:
        vocab_size: number of token ids.
        hidden: width of the residual stream.
        layers: number of decoder layers.
        heads: number of query heads.
        kv_heads: number of key/value heads; None: as many as `heads`. Fewer make decoding faster.
        mlp: width of the gated MLP.
        head_dim: width of a head; None: `hidden // heads`.
        context_tokens: maximum sequence length that the model declares (`max_position_embeddings`).
        rope_theta: base of the rotary frequencies.
        tied: whether input embedding and output head share their weights.
        bos_token_id: id of the beginning-of-sequence token, if there is one.
        eos_token_id: id of the end-of-sequence token, if there is one.
        pad_token_id: id of the padding token, if there is one.

    Raises:
        ConfigError: if a size is not positive, or the numbers of heads do not divide evenly.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    sizes = {"vocab_size": vocab_size, "hidden": hidden, "layers": layers, "heads": heads, "kv_heads": kv_heads}
    for name, value in {**sizes, "mlp": mlp, "context_tokens": context_tokens}.items():
        check_whole_number(name, value)
    if heads % kv_heads:
        raise ConfigError(f"heads ({heads}) must be a multiple of kv_heads ({kv_heads}).")
    if head_dim is None and hidden % heads:
        raise ConfigError(f"hidden ({hidden}) must be a multiple of heads ({heads}), or give head_dim.")
    head_dim = hidden // heads if head_dim is None else head_dim
    if head_dim < 2 or head_dim % 2:
        raise ConfigError(f"head_dim must be even and positive (rotary embedding), got {head_dim}.")
    transformers = require("transformers")
    return transformers.Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=tied,
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


def new_model(config: Any, *, seed: int = 0, dtype: str = "float32") -> PreTrainedModel:
    """A newly initialised causal language model with any Transformers configuration.

    Args:
        config: a Transformers configuration, for example from `tiny_config`.
        seed: seed of the weights; torch's global generator is not changed.
        dtype: one of `"float32"`, `"bfloat16"`, `"float16"`.
    """
    torch = require("torch")
    transformers = require("transformers")
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
    new: PreTrainedModel = model.to(_torch_dtype(dtype)).eval()
    return new


def save_policy(
    policy: Policy,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    provenance: Provenance | None = None,
) -> Path:
    """Write a policy directory atomically: weights, tokenizer, card, and a model card (`README.md`).

    See `save_model`.

    Args:
        policy: the policy to write.
        path: the directory; an existing one is replaced.
        dtype: dtype of the weights on disk; None: the model's dtype.
        provenance: where the policy comes from, for its model card; None: unknown.

    Returns:
        The directory.

    Raises:
        CheckpointError: if it cannot be written, for example to a full disk; an existing directory is unchanged.
    """
    return save_model(
        policy.model,
        policy.tokenizer,
        path,
        dtype=dtype,
        write_more=lambda directory: _write_cards(policy, directory, provenance),
    )


def write_policy(policy: Policy, directory: Path, *, provenance: Provenance | None = None) -> None:
    """Write the files of a policy into a directory that exists; for directories that hold more than a policy.

    Args:
        policy: the policy to write.
        directory: where to write.
        provenance: see `save_policy`.
    """
    _write_model(policy.model, policy.tokenizer, directory, None)
    _write_cards(policy, directory, provenance)


def _write_cards(policy: Policy, directory: Path, provenance: Provenance | None) -> None:
    (directory / CARD_FILE).write_text(json.dumps(card_values(policy.card), indent=2) + "\n")
    text = model_card(policy.model, policy.tokenizer, policy.card, provenance)
    (directory / MODEL_CARD_FILE).write_text(text, encoding="utf-8")


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    write_more: Callable[[Path], object] = lambda directory: None,
) -> Path:
    """Write a model and its tokenizer as one directory, atomically.

    The files are written into a sibling directory that is renamed only when it is complete: a save that is killed
    leaves the previous directory, or none, but never a partial one.

    Its `generation_config.json` has every token that ends a turn here, so that generation elsewhere ends there too.

    Args:
        model: the model; it is not changed.
        tokenizer: its tokenizer.
        path: the directory; an existing one is replaced.
        dtype: dtype of the weights on disk; None: the model's dtype.
        write_more: called with the sibling directory to write further files that must appear together with the model.

    Returns:
        The directory.

    Raises:
        CheckpointError: if it cannot be written, for example to a full disk; an existing directory is unchanged.
    """
    target = Path(path)
    safetensors = require("safetensors")
    try:
        with replaced_directory(target) as new:
            _write_model(model, tokenizer, new, dtype)
            write_more(new)
    except (OSError, safetensors.SafetensorError) as cause:
        raise CheckpointError(
            f"the model {target} could not be written: {sentence(one_line(cause))} An existing one there is unchanged."
        ) from cause
    return target


def _write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, dtype: str | None
) -> None:
    with quiet_transformers():
        _write_weights(model, directory, dtype)
        tokenizer.save_pretrained(directory)
        _write_end_tokens(model, tokenizer, directory)


def _write_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write `generation_config.json` with every token that ends a turn, and a padding token."""
    settings: Any = copy.deepcopy(model.generation_config)
    given = settings.eos_token_id
    listed = [given] if isinstance(given, int) else list(given or ())
    embedding: Any = model.get_input_embeddings()
    ends = [*listed, *sorted(end_ids(model, tokenizer, len(embedding.weight)).difference(listed))]
    padding = (settings.pad_token_id, tokenizer.pad_token_id, *ends)
    settings.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    settings.pad_token_id = next((token for token in padding if token is not None), None)
    settings.save_pretrained(directory)


def load_policy(path: str | os.PathLike[str], *, dtype: str = "float32", device: str = "cpu") -> Policy:
    """Load a policy directory, or any local causal language model in `save_pretrained` format.

    Args:
        path: a local directory. Nothing is downloaded.
        dtype: dtype to convert the weights to, whatever it is on disk; "auto" as `policy_dtype` has it.
        device: device of the model.

    Returns:
        The policy in evaluation mode; without a `zerosearch.json` its card has the defaults.

    Raises:
        CheckpointError: if the directory is missing, partial or damaged, or its weights do not fit its configuration.
        ConfigError: there is no such device.
    """
    directory = Path(path)
    if dtype != "auto":
        _torch_dtype(dtype)
    check_device(device)
    roll_back(directory)
    check_complete(directory)
    torch_dtype = _torch_dtype(policy_dtype(directory, device) if dtype == "auto" else dtype)
    card = read_card(directory) or AgentCard()
    transformers = require("transformers")
    with quiet_transformers():
        try:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch_dtype, local_files_only=True, output_loading_info=True
            )
        except Exception as cause:  # Transformers, safetensors and tokenizers each raise their own classes
            raise CheckpointError(f"the policy in {directory} cannot be loaded: {one_line(cause)}") from cause
    tokenizer = load_tokenizer(directory)
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, report.get(what) or ())):
            raise CheckpointError(
                f"the weights in {directory} do not fit its config.json: {len(names)} {what.replace('_', ' ')}, "
                f"for example {names[0]}. The directory is incomplete or mixed from two models."
            )
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise CheckpointError(
            f"the tokenizer in {directory} has {len(tokenizer)} tokens, its model only "
            f"{model.get_input_embeddings().weight.shape[0]}: they do not belong together."
        )
    return Policy(model.to(device).eval(), tokenizer, card)


def policy_to_train(
    policy: Policy, name: str, given: Rules, entries: Mapping[str, Any]
) -> tuple[Policy, Rules, list[str]]:
    """What a training command makes of a policy: its card with the changes of the command, and the rules it plays by.

    Args:
        policy: the policy as loaded.
        name: what the user calls it; also where it is (`policy_path`).
        given: the rules that the command gives.
        entries: entries of the card that the command gives; those that are None change nothing.

    Returns:
        The policy with the card that it is trained with, its rules, and what the user should know (`card_notes`).

    Raises:
        ConfigError: an entry is invalid, or the tokenizer's chat template cannot show what the card asks for.
    """
    card = decide_chat(changed_card(policy.card, entries), policy.tokenizer)
    rules = card_rules(given, card)
    notes = card_notes(name, policy_path(name), card, given)
    return replace(policy, card=trained_card(card, rules)), rules, notes


def policy_dtype(directory: Path, device: str) -> str:
    """The dtype in which a policy that is only read is fast on a device, without losing digits (`auto_dtype`)."""
    stored, parameters = stored_weights(directory)
    return auto_dtype(device, stored, parameters)


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a policy directory, without its model.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    transformers = require("transformers")
    with quiet_transformers():
        try:
            tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as cause:  # Transformers and tokenizers each raise their own classes
            raise CheckpointError(f"the tokenizer in {path} cannot be loaded: {one_line(cause)}") from cause
    return tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the block, hide Transformers' progress bars and its log lines below level ERROR; then restore both."""
    logging = require("transformers").utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)


def _torch_dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise unknown_name("dtype", name, _DTYPES)
    dtype: torch.dtype = getattr(require("torch"), name)
    return dtype


def _write_weights(model: PreTrainedModel, directory: Path, dtype: str | None) -> None:
    if dtype is None:
        model.save_pretrained(directory)
        return
    torch_dtype = _torch_dtype(dtype)
    cast: dict[int, torch.Tensor] = {}  # keyed by address, so that tied weights stay tied and are written once
    state = {}
    for name, value in model.state_dict().items():
        state[name] = (
            value if not value.is_floating_point() else cast.setdefault(value.data_ptr(), value.to(torch_dtype))
        )
    model.save_pretrained(directory, state_dict=state)
    config = directory / "config.json"  # it still names the dtype of the model in memory
    config.write_text(json.dumps({**read_json(config), "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
