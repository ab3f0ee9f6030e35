"""The loss of supervised fine-tuning: cross-entropy over the trained tokens only.

The vocabulary head is never computed for other tokens. Rows go through the model in one of two ways.

Packed: several rows follow each other in one, and the position ids restart at each of them:

    ids        p p p d d e  p p d d d e        p not trained on, d and e trained on
    positions  0 1 2 3 4 5  0 1 2 3 4 5

Transformers builds the block-diagonal mask from the positions, but only without an attention mask and without a cache.
With either of them, rows silently attend to each other. `check_loss` therefore tests the actual model once before a
run.

Padded: one row each, with padding on the right, to which a causal model never attends.

Shape suffixes: `_T` tokens of a packed row, `_B` rows, `_N` trained tokens, `_D` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerosearch_env.errors import ConfigError

from ..forward.head import cross_entropy
from .rows import Row


def loss_sum(model: Any, rows: Sequence[Row], *, packed: bool = False, device: torch.device | str = "cpu") -> Tensor:
    """Sum of the cross-entropy over the trained tokens of all rows, in nats; the caller normalises it.

    Args:
        model: a Transformers causal language model with a plain linear vocabulary head.
        rows: rows for one forward pass.
        packed: whether all rows are concatenated, or each is padded.
        device: device of the model.
    """
    inputs = _inputs(rows, packed, device)
    masks = [np.array(row.trained, dtype=bool) for row in rows]
    for mask in masks:
        mask[0] = False  # nothing predicts it: in a packed row, the token before it belongs to another text
    # The hidden state at position t predicts token t + 1.
    chosen_BT = _join(masks, packed)[:, 1:].to(device)
    hidden_ND = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1][chosen_BT]
    targets_N = inputs["input_ids"][:, 1:][chosen_BT]
    return cross_entropy(hidden_ND, targets_N, model.get_output_embeddings()).sum()


def _inputs(rows: Sequence[Row], packed: bool, device: torch.device | str) -> dict[str, Tensor]:
    inputs = {"input_ids": _join([np.array(row.ids, dtype=np.int64) for row in rows], packed)}
    if packed:
        inputs["position_ids"] = _join([np.arange(len(row.ids)) for row in rows], packed)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _join(vectors: Sequence[NDArray[Any]], packed: bool) -> Tensor:
    """Vectors one after another in a single row, or each in its own row with zeros on the right."""
    if packed:
        return torch.from_numpy(np.concatenate(vectors))[None]
    width = max(map(len, vectors))
    return torch.from_numpy(np.stack([np.pad(vector, (0, width - len(vector))) for vector in vectors]))


@torch.no_grad()
def check_loss(model: Any, rows: Sequence[Row], *, packed: bool, device: torch.device | str = "cpu") -> None:
    """Compare `loss_sum` with the model's own forward pass on one row at a time.

    Args:
        model: in evaluation mode.
        rows: two or three short rows.
        packed: whether the run will use packed rows.
        device: device of the model.

    Raises:
        ConfigError: the losses differ (the model caps or scales its logits), or packed rows attend to each other.
    """
    expected = torch.zeros((), device=device)
    for row in rows:
        ids_T = torch.tensor(list(row.ids), device=device)
        chosen_T = torch.tensor(list(row.trained), device=device, dtype=torch.bool)[1:]
        logits = model(input_ids=ids_T[None], use_cache=False).logits[0].float()
        expected += torch.nn.functional.cross_entropy(logits[:-1][chosen_T], ids_T[1:][chosen_T], reduction="sum")
    loss = loss_sum(model, rows, packed=packed, device=device)
    # A missing scale factor changes the loss by whole nats, low precision by thousandths.
    if not torch.isclose(loss, expected, rtol=0.02, atol=0.02):
        raise ConfigError(
            f"{type(model).__name__}: the loss of its own forward pass is {float(expected):.4f}, but the tuning loss "
            f"is {float(loss):.4f}. Models that cap or scale their logits are not supported."
        )
    if packed and len(rows) > 1:
        _check_isolation(model, rows[0], rows[1], device)


def _check_isolation(model: Any, first: Row, second: Row, device: torch.device | str) -> None:
    """Check that the loss of a packed row does not depend on the row before it.

    It is computed after another row and after the same tokens reversed, and must be equal. This detects a leak even
    in an untrained model, which hardly uses its context yet.
    """
    untrained = [False] * len(first.ids)
    losses = [
        float(loss_sum(model, [Row(ids, untrained), second], packed=True, device=device))
        for ids in (first.ids, first.ids[::-1])
    ]
    if not math.isclose(*losses, rel_tol=2e-6):
        raise ConfigError(
            f"{type(model).__name__}: the loss of a packed example depends on the example packed before it "
            f"({losses[0]:.6f}, {losses[1]:.6f}): use --packing off with this model."
        )
