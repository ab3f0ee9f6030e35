"""The loss of supervised fine-tuning: cross-entropy over the trained tokens only.

    ids        p p p d d e  p p d d d e        p not trained on, d and e trained on
    read           r r r      r r r r          the positions whose output predicts a trained token

The vocabulary head is computed for the read positions only. Rows go through the model in the learner's modes
(`forward/mode.py`): packed one after another without seeing each other, or padded on the right, to which a causal model
never attends. `check_loss` tests the actual model once before a run.

Shape suffixes: `_T` tokens of packed rows, `_B` rows, `_N` trained tokens, `_D` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zerosearch_env.errors import ConfigError

from ..forward.head import cross_entropy
from ..forward.mode import ForwardMode, transformers_hidden
from ..forward.packed import packed_hidden
from .rows import Row

_PADDED = ForwardMode()


def loss_sum(
    model: Any, rows: Sequence[Row], mode: ForwardMode = _PADDED, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Sum of the cross-entropy over the trained tokens of all rows, in nats; the caller normalises it.

    Args:
        model: a Transformers causal language model with a plain linear vocabulary head.
        rows: rows for one forward pass.
        mode: how they go through the model.
        device: device of the model.
    """
    ids = [np.array(row.ids, dtype=np.int64) for row in rows]
    lengths = [len(row) for row in ids]
    # The hidden state at position t predicts token t + 1; nothing predicts the first token.
    read = [np.flatnonzero(np.array(row.trained, dtype=bool)[1:]) for row in rows]
    targets_N = torch.from_numpy(np.concatenate([row[r + 1] for row, r in zip(ids, read, strict=True)])).to(device)
    if mode.packed:
        ids_T = torch.from_numpy(np.concatenate(ids)).to(device)
        if mode.packing == "sequences":
            checkpointing = mode.checkpointing and torch.is_grad_enabled()
            hidden_ND = packed_hidden(model, ids_T, lengths, read, dtype=mode.dtype, checkpointing=checkpointing)
        else:
            starts = np.cumsum([0, *lengths[:-1]])
            places_N = torch.from_numpy(np.concatenate([r + start for r, start in zip(read, starts, strict=True)]))
            hidden_ND = transformers_hidden(model, ids_T[None], lengths, mode.dtype)[0, places_N.to(device)]
    else:
        padded = np.stack([np.pad(row, (0, max(lengths) - len(row))) for row in ids])
        hidden_BTD = transformers_hidden(model, torch.from_numpy(padded).to(device), None, mode.dtype)
        rows_N = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(r) for r in read])).to(device)
        hidden_ND = hidden_BTD[rows_N, torch.from_numpy(np.concatenate(read)).to(device)]
    return cross_entropy(hidden_ND, targets_N, model.get_output_embeddings(), dtype=mode.dtype).sum()


@torch.no_grad()
def check_loss(model: Any, rows: Sequence[Row], mode: ForwardMode, *, device: torch.device | str = "cpu") -> None:
    """Compare `loss_sum` with the model's own forward pass on one row at a time.

    Args:
        model: in evaluation mode.
        rows: two or three short rows.
        mode: how the rows of the run go through the model.
        device: device of the model.

    Raises:
        ConfigError: the losses differ (the model caps or scales its logits).
    """
    expected = torch.zeros((), device=device)
    for row in rows:
        ids_T = torch.tensor(list(row.ids), device=device)
        chosen_T = torch.tensor(list(row.trained), device=device, dtype=torch.bool)[1:]
        logits = model(input_ids=ids_T[None], use_cache=False).logits[0].float()
        expected += torch.nn.functional.cross_entropy(logits[:-1][chosen_T], ids_T[1:][chosen_T], reduction="sum")
    loss = loss_sum(model, rows, mode, device=device)
    # A missing scale factor changes the loss by whole nats, low precision by thousandths.
    if not torch.isclose(loss, expected, rtol=0.02, atol=0.02):
        raise ConfigError(
            f"{type(model).__name__}: the loss of its own forward pass is {float(expected):.4f}, but the tuning loss "
            f"is {float(loss):.4f}. Models that cap or scale their logits are not supported."
        )
