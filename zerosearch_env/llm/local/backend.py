"""`TransformersBackend`: a Hugging Face causal language model in this process, on CPU or GPU.

Transformers' `generate` samples all rows of a batch from one random generator, so a completion would depend on the
other rows. Here `make_decoder` computes the logits, and the random number for a row's n-th token is a function of the
row's seed and n only (see `draw`). So the same prompt gives the same completion in every batch, up to rounding: a
different batch can change a token only if the draw is within a rounding error of the border between two tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError, require
from ...randomness import uniform_rows
from ..backend import Completion, Prompt, hub_commit, model_identity
from ..chat import cut_at_stop, end_ids, prompt_ids, too_long
from ..quiet import no_progress_bars
from .devices import check_device

if TYPE_CHECKING:
    from torch import Tensor

    from .decoder import Decoder

_STOP_CHECK_EVERY = 8
_MASK = (1 << 64) - 1


class TransformersBackend:
    """Completes prompts with a local model, which is loaded at the first prompt.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        device: for example `"cpu"` or `"cuda"`; None uses a GPU if there is one.
        dtype: for example `"bfloat16"`; None uses the checkpoint's dtype.
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
        dtype: str | None = None,
        max_batch: int = 32,
    ) -> None:
        if not model:
            raise ConfigError('a model is needed: "simulated:hf:FOLDER" or "simulated:hf:NAME"')
        check_whole_number("max_batch", max_batch)
        self.model = model
        self._device = device
        self._dtype = dtype
        self._max_batch = max_batch
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def identity(self) -> str:
        """The model and its dtype; see `model_identity`."""
        return model_identity(self.model, self._dtype)

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Return one completion per prompt, in order.

        Raises:
            EngineError: the backend is closed, or the model failed.
            ConfigError: the model cannot be loaded.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the backend is closed; build a new one", attempts=0)
            if not prompts:
                return []
            model = self._load()
            ids = [prompt_ids(model.tokenizer, prompt.text) for prompt in prompts]
            results: list[Completion | None] = []
            for prompt, tokens in zip(prompts, ids, strict=True):
                problem = (
                    too_long(len(tokens), prompt.max_tokens, model.context) if tokens else "the prompt has no token"
                )
                results.append(None if problem is None else Completion(failure=problem))
            # Sorted by length, so that a batch needs little padding.
            waiting = sorted((i for i, done in enumerate(results) if done is None), key=lambda i: len(ids[i]))
            for start in range(0, len(waiting), self._max_batch):
                rows = waiting[start : start + self._max_batch]
                try:
                    completions = _generate(model, [prompts[i] for i in rows], [ids[i] for i in rows])
                except RuntimeError as cause:  # out of memory, or a device failure
                    raise EngineError(f"the model {self.model!r} failed: {cause}") from cause
                for i, completion in zip(rows, completions, strict=True):
                    results[i] = completion
        return [completion for completion in results if completion is not None]

    def close(self) -> None:
        """Release the model. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            self._loaded = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the settings; a copy loads its own model."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the lock; the model is loaded at the first prompt."""
        self.__dict__ |= state
        self._loaded = None
        self._lock = threading.Lock()

    def _load(self) -> _Loaded:
        if self._loaded is None:
            torch, transformers = require("torch"), require("transformers")
            if self._dtype is not None and not isinstance(getattr(torch, self._dtype, None), torch.dtype):
                raise ConfigError(f"dtype must be the name of a torch dtype such as 'bfloat16', got {self._dtype!r}")
            device = check_device(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))
            try:
                revision = hub_commit(self.model) or "main"
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.model, revision=revision)
                with no_progress_bars():
                    model = transformers.AutoModelForCausalLM.from_pretrained(
                        self.model, revision=revision, dtype=self._dtype or "auto"
                    )
            except (OSError, ValueError) as cause:
                raise ConfigError(f"the model {self.model!r} could not be loaded: {cause}") from cause
            model = model.to(device).eval()
            context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
            from .decoder import make_decoder

            # A second copy of a large model's weights might not fit on the GPU.
            decoder = make_decoder(model, self._max_batch, context, copy_weights=model.device.type == "cpu")
            self._loaded = _Loaded(decoder, tokenizer, end_ids(model, tokenizer, decoder.vocab_size), context)
        return self._loaded


class _Loaded(NamedTuple):
    decoder: Decoder
    tokenizer: Any
    end_ids: set[int]
    context: int
    """Maximum tokens of a prompt and its completion."""


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
            self.completion = Completion(self._text(tokenizer)[0])
            return
        self.tokens.append(token)
        if count == self.prompt.max_tokens:
            text, stopped = self._text(tokenizer)
            self.completion = Completion(text, truncated=not stopped)
        elif self.prompt.stop and count % _STOP_CHECK_EVERY == 0:
            # The tail is long enough for any stop string completed since the last check: a stop string has at most as
            # many tokens as characters. If one is found, the whole text is searched.
            tail = self.tokens[-_STOP_CHECK_EVERY - max(map(len, self.prompt.stop)) :]
            if cut_at_stop(tokenizer.decode(tail, skip_special_tokens=True), self.prompt.stop)[1]:
                text, stopped = self._text(tokenizer)
                self.completion = Completion(text) if stopped else None

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

    from .draw import draw

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
    nucleus = (top_p < 1).nonzero().squeeze(-1)
    if len(nucleus):
        ordered, order = scaled[nucleus].sort(dim=-1, descending=True, stable=True)
        shares = ordered.softmax(-1).double()
        # The nucleus is the shortest run of tokens with a total probability of at least `top_p`.
        ordered[shares.cumsum(-1) - shares >= top_p[nucleus, None]] = float("-inf")
        scaled[nucleus] = scaled[nucleus].scatter(-1, order, ordered)
    tokens, _ = draw(scaled, torch.from_numpy(uniform_rows(seeds, counts)).to(device), 1.0)
    return [int(token) for token in torch.where(greedy, logits.argmax(-1), tokens)]
