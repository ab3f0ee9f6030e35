"""From pairs to the tuning loss: encode, pack, and compute the loss on the documents' tokens only.

A prompt is encoded separately, exactly as a server will encode it; then the documents and the end token are appended.
Only these are trained on, so the vocabulary head is never computed for prompt tokens.

Packed rows: several examples follow each other in one row, and the position ids restart at each of them:

    ids        p p p d d e  p p d d d e        p prompt, d documents, e end token
    positions  0 1 2 3 4 5  0 1 2 3 4 5

Transformers builds the block-diagonal mask from the positions, but only without an attention mask and without a cache.
With either of them, examples silently attend to each other. `check_loss` therefore tests the actual model once before
a run.

Padded rows: one example per row, with padding on the right, to which a causal model never attends.

Shape suffixes: `_T` tokens of a packed row, `_B` rows, `_N` trained tokens, `_D` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zerosearch_env.errors import ConfigError
from zerosearch_env.llm.chat import prompt_ids

from ...forward.head import cross_entropy
from ..pairs.pair import Pair, prompt_text, target_text


@dataclass(frozen=True)
class Example:
    """One training text: a prompt followed by the trained tokens."""

    ids: NDArray[np.int32]
    """Token ids of prompt, documents and end token."""
    prompt: int
    """Number of tokens in the prompt, at least 1."""
    noisy: bool

    @property
    def trained(self) -> int:
        """Number of trained tokens: those of the documents, and the end token."""
        return len(self.ids) - self.prompt


def encode(pair: Pair, tokenizer: Any, max_tokens: int) -> Example | None:
    """The example of a pair, or None if it has more than `max_tokens` tokens.

    Raises:
        ConfigError: the tokenizer has no end token, so a model could not learn where to stop.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no end-of-sequence token: set eos_token in its tokenizer_config.json")
    prompt = prompt_ids(tokenizer, prompt_text(pair))
    target = tokenizer(target_text(pair.documents), add_special_tokens=False)["input_ids"]
    ids = [*prompt, *target, tokenizer.eos_token_id]
    return Example(np.array(ids, dtype=np.int32), len(prompt), pair.noisy) if len(ids) <= max_tokens else None


def loss_sum(model: Any, examples: Sequence[Example], *, packed: bool, device: torch.device | str = "cpu") -> Tensor:
    """Sum of the cross-entropy over the trained tokens of all examples, in nats; the caller normalises it.

    Args:
        model: a Transformers causal language model with a plain linear vocabulary head.
        examples: examples for one forward pass.
        packed: whether all examples are in one row, or each in its own row.
        device: device of the model.
    """
    row_of: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    start = 0
    for row, example in enumerate(examples):
        count = example.trained
        first = example.prompt - 1  # the hidden state at position i predicts token i + 1
        row_of += [0 if packed else row] * count
        places += range(start + first, start + first + count)
        targets += example.ids[example.prompt :].tolist()
        start += len(example.ids) if packed else 0
    inputs = _packed(examples, device) if packed else _padded(examples, device)
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    hidden_ND = hidden[torch.tensor(row_of, device=device), torch.tensor(places, device=device)]
    targets_N = torch.tensor(targets, device=device)
    head = model.get_output_embeddings()
    return cross_entropy(hidden_ND, targets_N, head).sum()


def _packed(examples: Sequence[Example], device: torch.device | str) -> dict[str, Tensor]:
    ids_T = torch.from_numpy(np.concatenate([example.ids for example in examples])).long().to(device)
    positions_T = torch.cat([torch.arange(len(example.ids), device=device) for example in examples])
    return {"input_ids": ids_T[None], "position_ids": positions_T[None]}


def _padded(examples: Sequence[Example], device: torch.device | str) -> dict[str, Tensor]:
    width = max(len(example.ids) for example in examples)
    ids_BT = np.zeros((len(examples), width), dtype=np.int64)
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.ids)] = example.ids
    return {"input_ids": torch.from_numpy(ids_BT).to(device)}


@torch.no_grad()
def check_loss(model: Any, examples: Sequence[Example], *, packed: bool, device: torch.device | str = "cpu") -> None:
    """Compare `loss_sum` with the model's own forward pass on one example at a time.

    Args:
        model: in evaluation mode.
        examples: two or three short examples.
        packed: whether the run will use packed rows.
        device: device of the model.

    Raises:
        ConfigError: the losses differ (the model caps or scales its logits), or packed examples attend to each other.
    """
    own = torch.zeros((), device=device)
    for example in examples:
        ids_T = torch.from_numpy(example.ids).long().to(device)
        logits = model(input_ids=ids_T[None], use_cache=False).logits[0].float()
        wanted = ids_T[example.prompt :]
        own += torch.nn.functional.cross_entropy(logits[example.prompt - 1 : -1], wanted, reduction="sum")
    ours = loss_sum(model, examples, packed=packed, device=device)
    # A missing scale factor changes the loss by whole nats, low precision by thousandths.
    if not torch.isclose(ours, own, rtol=0.02, atol=0.02):
        raise ConfigError(
            f"{type(model).__name__}: the loss of its own forward pass is {float(own):.4f}, but the tuning loss is "
            f"{float(ours):.4f}. Models that cap or scale their logits are not supported."
        )
    if packed and len(examples) > 1:
        _check_isolation(model, examples[0], examples[1], device)


def _check_isolation(model: Any, first: Example, second: Example, device: torch.device | str) -> None:
    """Check that the loss of a packed example does not depend on the example before it.

    It is computed after another example and after the same tokens reversed, and must be equal. This detects a leak even
    in an untrained model, which hardly uses its context yet.
    """
    # With `prompt` at its full length, the first example has no trained tokens.
    forwards = Example(first.ids, len(first.ids), first.noisy)
    backwards = Example(first.ids[::-1].copy(), len(first.ids), first.noisy)
    one, other = (loss_sum(model, [before, second], packed=True, device=device) for before in (forwards, backwards))
    if not torch.isclose(one, other, rtol=2e-6, atol=0.0):
        raise ConfigError(
            f"{type(model).__name__}: the loss of a packed example depends on the example packed before it "
            f"({float(one):.6f}, {float(other):.6f}): use --packing off with this model."
        )
