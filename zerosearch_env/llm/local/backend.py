"""`TransformersBackend`: a Hugging Face causal language model in this process, on CPU or GPU.

Transformers' `generate` samples all rows of a batch from one random generator, so a completion would depend on the
other rows. Here `make_decoder` computes the logits, and the random number for a row's n-th token is a function of the
row's seed and n only (see `draw`). So the same prompt gives the same completion in every batch, up to rounding: a
different batch can change a token only if the draw is within a rounding error of the border between two tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError, require, unknown_name
from ...randomness import uniform_rows
from ..backend import Completion, Prompt, hub_commit, model_identity
from ..chat import cut_at_stop, end_ids
from ..in_process import InProcessBackend
from ..quiet import no_progress_bars
from .devices import DTYPES, auto_dtype, check_device, default_device, inference_dtype, slow_dtype_note

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_STOP_CHECK_EVERY = 8
_MASK = (1 << 64) - 1


class TransformersBackend(InProcessBackend):
    """Completes prompts with a local model, which is loaded at the first prompt.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        device: for example `"cpu"` or `"cuda"`; None uses a GPU if there is one.
        dtype: `"auto"`, `"float32"`, `"bfloat16"` or `"float16"`; "auto" is what is fast on the device, without losing
            digits of the checkpoint (`devices.auto_dtype`).
        max_batch: maximum number of prompts per batch, at least 1.

    Raises:
        ConfigError: an argument is invalid.
    """

    name = "hf"

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str = "auto",
        max_batch: int = 32,
    ) -> None:
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        super().__init__(model, dtype)
        self._device = device
        self._max_batch = check_whole_number("max_batch", max_batch)

    @property
    def identity(self) -> str:
        """The model, and the data type unless it is the checkpoint's; see `model_identity`."""
        fast = inference_dtype(self._device or default_device())
        own = self._dtype if self._dtype != "auto" else None if fast == "bfloat16" else fast
        return model_identity(self.model, own, self._revision)

    def _load(self) -> _Loaded:
        torch, transformers = require("torch"), require("transformers")
        device = check_device(self._device or default_device())
        try:
            revision = hub_commit(self.model) or "main"
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.model, revision=revision)
            with no_progress_bars():
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    self.model, revision=revision, dtype=self._dtype
                )
        except (OSError, ValueError) as cause:
            raise ConfigError(f"the model {self.model!r} could not be loaded: {cause}") from cause
        dtype = self._dtype or "auto"
        if dtype == "auto":
            dtype = auto_dtype(device, str(model.dtype).removeprefix("torch."), model.num_parameters())
        elif note := slow_dtype_note(device, dtype):
            _log.warning("the model %s: %s", self.model, note)
        if model.dtype != getattr(torch, dtype):  # quantised models cannot be converted
            model = model.to(getattr(torch, dtype))
        return _Loaded(self.model, model.to(device).eval(), tokenizer, self._max_batch)


class _Loaded:
    # Any: models and tokenizers of Transformers have no common type without importing it
    def __init__(self, name: str, model: Any, tokenizer: Any, max_batch: int) -> None:
        from .decoder import make_decoder

        self._name, self._max_batch = name, max_batch
        self.tokenizer = tokenizer
        self.context_tokens: int = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        # A second copy of a large model's weights might not fit on the GPU.
        copy_weights = model.device.type == "cpu"
        self.decoder = make_decoder(model, max_batch, self.context_tokens, copy_weights=copy_weights)
        self.end_ids = end_ids(model, tokenizer, self.decoder.vocab_size)

    def complete(self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> list[Completion]:
        completions: dict[int, Completion] = {}
        # Sorted by length, so that a batch needs little padding.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), self._max_batch):
            rows = order[start : start + self._max_batch]
            try:
                made = _generate(self, [prompts[i] for i in rows], [ids[i] for i in rows])
            except RuntimeError as cause:  # out of memory, or a device failure
                raise EngineError(f"the model {self._name!r} failed: {cause}") from cause
            completions |= zip(rows, made, strict=True)
        return [completions[i] for i in range(len(ids))]

    def close(self) -> None:
        """Nothing to do: the memory is freed with this object."""


class _Generation:
    """One completion in progress."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.completion: Completion | None = None

    def add(self, token: int, end_ids: set[int], tokenizer: Any) -> None:
        """Append the next token; sets `completion` if it was the last one."""
        count = len(self.tokens) + 1
        if token in end_ids:
            self.completion = Completion(self._text(tokenizer)[0], completion_tokens=count)
            return
        self.tokens.append(token)
        if count == self.prompt.max_tokens:
            text, stopped = self._text(tokenizer)
            self.completion = Completion(text, truncated=not stopped, completion_tokens=count)
        elif self.prompt.stop and count % _STOP_CHECK_EVERY == 0:
            # The tail is long enough for any stop string completed since the last check: a stop string has at most as
            # many tokens as characters. If one is found, the whole text is searched.
            tail = self.tokens[-_STOP_CHECK_EVERY - max(map(len, self.prompt.stop)) :]
            if cut_at_stop(tokenizer.decode(tail, skip_special_tokens=True), self.prompt.stop)[1]:
                text, stopped = self._text(tokenizer)
                self.completion = Completion(text, completion_tokens=count) if stopped else None

    def _text(self, tokenizer: Any) -> tuple[str, bool]:
        return cut_at_stop(tokenizer.decode(self.tokens, skip_special_tokens=True), self.prompt.stop)


def _generate(model: _Loaded, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> list[Completion]:
    """Sample one completion per prompt, in one batch: row i occupies slot i of the decoder until its last token."""
    import torch

    decoder = model.decoder
    rows = [_Generation(prompt) for prompt in prompts]
    slots = np.arange(len(rows))
    with torch.inference_mode():
        logits = decoder.prefill(slots.tolist(), [0] * len(rows), ids)
        while True:
            tokens = _choose(logits, [rows[slot] for slot in slots])
            for slot, token in zip(slots, tokens, strict=True):
                rows[slot].add(token, model.end_ids, model.tokenizer)
            unfinished = np.array([rows[slot].completion is None for slot in slots])
            for slot in slots[~unfinished].tolist():
                decoder.release(slot)
            slots = slots[unfinished]
            if not len(slots):
                return [row.completion or Completion() for row in rows]
            positions = np.array([len(ids[slot]) + len(rows[slot].tokens) - 1 for slot in slots])
            logits = decoder.step(slots, positions, np.array(tokens)[unfinished])


def _choose(logits: Tensor, rows: Sequence[_Generation]) -> list[int]:
    """Sample the next token of each row from logits of shape `(rows, vocabulary)`."""
    import torch

    from .draw import draw, nucleus

    device = logits.device
    temperatures = torch.tensor([row.prompt.temperature for row in rows], device=device)
    greedy = temperatures == 0
    if greedy.all():
        return [int(token) for token in logits.argmax(-1)]
    seeds = np.array([row.prompt.seed & _MASK for row in rows], dtype=np.uint64)
    counts = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    scaled = logits / torch.where(greedy, 1.0, temperatures)[:, None]
    top_p = torch.tensor([row.prompt.top_p for row in rows], device=device, dtype=torch.float64)
    # Sort only rows with top_p < 1: sorting costs more than the rest of this function.
    limited = (top_p < 1).nonzero().squeeze(-1)
    if len(limited):
        scaled[limited] = nucleus(scaled[limited], top_p[limited])
    tokens, _ = draw(scaled, torch.from_numpy(uniform_rows(seeds, counts)).to(device), 1.0)
    return [int(token) for token in torch.where(greedy, logits.argmax(-1), tokens)]
