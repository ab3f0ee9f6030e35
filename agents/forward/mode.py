"""How rollouts go through a model: packed or padded, in which precision, with or without checkpointing.

`prepare_model` tests the model before a run: packing is used only if, on two short sequences, it gives the same result
as the model's own forward pass and no sequence sees the other.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.errors import ConfigError, sentence

from ..config.train import TrainConfig
from .activations import checkpoint_activations
from .attention import use_block_attention
from .fsdp import is_sharded
from .packed import packed_hidden, why_not_packed
from .prefixes import GRAIN

Packing = Literal["off", "sequences", "flex", "flash"]
BLOCK_ATTENTION_TOKENS = 2048
"""On a CPU, padded rows use `block_causal_attention` up to this context length; its memory grows quadratically."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForwardMode:
    """How rollouts go through a model. The default is padded rows in float32."""

    packing: Packing = "off"
    """"off": rows padded on the right; "sequences": packed, attention per sequence (`packed.py`); "flex", "flash":
    packed, with Transformers' flex_attention or FlashAttention 2."""
    dtype: torch.dtype = torch.float32
    """Data type of the matrix products; weights, gradients and optimizer state are always float32."""
    checkpointing: bool = False
    """Whether the activations inside a layer are recomputed in the backward pass."""

    @property
    def packed(self) -> bool:
        """Whether a row holds several rollouts."""
        return self.packing != "off"


def prepare_model(model: Any, config: TrainConfig, context_tokens: int) -> ForwardMode:
    """Chooses the mode that the configuration asks for, and sets up the model for it.

    Args:
        model: a causal language model in evaluation mode; its attention implementation, and with
            `gradient_checkpointing` its layers, may be changed.
        config: `optimizer.packing`, `optimizer.dtype` and `optimizer.gradient_checkpointing` are used.
        context_tokens: maximum tokens of a rollout.

    Raises:
        ConfigError: the requested packing does not give the same result as the model.
    """
    settings = config.optimizer
    mode = ForwardMode("off", getattr(torch, settings.dtype), settings.gradient_checkpointing)
    reason = why_not_packed(model)
    if settings.packing in ("auto", "sequences") and reason is None:
        packed = ForwardMode("sequences", mode.dtype, mode.checkpointing)
        if (reason := disagreement(model, packed)) is None:
            return packed
    if settings.packing == "sequences":
        raise ConfigError(f'packing = "sequences" does not fit this model: {sentence(reason)} Use "auto" or "off".')
    if settings.packing in ("flex", "flash"):
        return _through_transformers(model, ForwardMode(settings.packing, mode.dtype, mode.checkpointing))
    if settings.packing == "auto":
        _log.info("rollouts are padded, not packed: %s", reason)
    if model.device.type == "cpu" and context_tokens <= BLOCK_ATTENTION_TOKENS:
        use_block_attention(model)
    if mode.checkpointing:
        _checkpoint_layers(model)
    return mode


def _through_transformers(model: Any, mode: ForwardMode) -> ForwardMode:
    name = {"flex": "flex_attention", "flash": "flash_attention_2"}[mode.packing]
    if model.device.type != "cuda":
        raise ConfigError(f'packing = "{mode.packing}" needs a GPU (device "cuda"); use "auto".')
    if mode.packing == "flash" and mode.dtype != torch.bfloat16:
        raise ConfigError('packing = "flash" computes only in bfloat16: set dtype = "bfloat16".')
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError) as cause:
        raise ConfigError(f'packing = "{mode.packing}" cannot be used: {cause}') from cause
    if mode.checkpointing:
        _checkpoint_layers(model)
    if (reason := disagreement(model, mode)) is not None:
        raise ConfigError(f'packing = "{mode.packing}" does not fit this model: {sentence(reason)} Use "off".')
    return mode


def _checkpoint_layers(model: Any) -> None:
    """Turns checkpointing on and dropout off: Transformers checkpoints only in training mode, which enables dropout."""
    checkpoint_activations(model, True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


def transformers_hidden(model: Any, ids_BT: Tensor, lengths: list[int] | None, dtype: torch.dtype) -> Tensor:
    """Final hidden states through the model's own forward pass, shape `(B, T, hidden size)`.

    Args:
        model: a Transformers causal language model.
        ids_BT: token ids: rows padded on the right or, with `lengths`, one row of packed sequences.
        lengths: tokens of each packed sequence. Position ids then start from 0 in each of them. Transformers uses
            these to separate the sequences, but only without an attention mask and a cache.
        dtype: data type of the matrix products.
    """
    positions_BT = None
    if lengths is not None:
        positions_BT = torch.cat([torch.arange(length, device=ids_BT.device) for length in lengths])[None]
    with torch.autocast(ids_BT.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        if is_sharded(model):
            hidden_BTD: Tensor = model.final_hidden(ids_BT, positions_BT)
            return hidden_BTD
        output = model.base_model(input_ids=ids_BT, position_ids=positions_BT, use_cache=False)
    hidden_BTD = output.last_hidden_state
    return hidden_BTD


@torch.no_grad()
def disagreement(model: Any, mode: ForwardMode) -> str | None:
    """How packing differs from the model's own forward pass of each sequence; None if it does not.

    A new model's weights hardly use the context, so a leak is also tested directly: when the end of the first of three
    sequences changes, the hidden states of the others must stay the same. The first two have a common prefix.
    """
    count = int(model.get_input_embeddings().weight.shape[0])
    whole = np.array([(7 * i + 3) % count for i in range(GRAIN + 9)])
    others = [np.concatenate([whole[:GRAIN], (whole[GRAIN:-2] + 2) % count]), (whole[:7] + 11) % count]
    other = np.concatenate([whole[:GRAIN], (whole[GRAIN:][::-1] + 5) % count])
    rows = [whole, *others]
    alone = [model.base_model(input_ids=_ids([row], model)[None], use_cache=False).last_hidden_state[0] for row in rows]
    expected = torch.cat(alone).float()
    got, changed = (_packed(model, mode, [first, *others]) for first in (whole, other))
    scale = max(float(expected.abs().max()), 1e-3)
    allowed = 0.1 if mode.dtype == torch.bfloat16 or alone[0].dtype != torch.float32 else 1e-3
    if (error := float((got - expected).abs().max())) > allowed * scale:
        return f"packed hidden states differ by {error:.2g} from those of the model's own forward pass"
    leak = float((got[len(whole) :] - changed[len(whole) :]).abs().max())
    if leak > (1e-2 if allowed == 0.1 else 1e-5) * scale:
        return f"packed sequences see each other (by {leak:.2g})"
    return None


def _ids(rows: list[Any], model: Any) -> Tensor:
    return torch.from_numpy(np.concatenate(rows)).to(model.device)


def _packed(model: Any, mode: ForwardMode, rows: list[Any]) -> Tensor:
    lengths, ids_T = [len(row) for row in rows], _ids(rows, model)
    if mode.packing != "sequences":
        return transformers_hidden(model, ids_T[None], lengths, mode.dtype)[0].float()
    return packed_hidden(model, ids_T, lengths, [np.arange(n) for n in lengths], dtype=mode.dtype).float()
