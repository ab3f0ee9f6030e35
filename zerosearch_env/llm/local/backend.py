"""`TransformersBackend`: a Hugging Face causal language model in this process, on CPU or GPU.

`generate` samples all rows of a batch from one random generator, so a completion would depend on the other rows.
Here the random number for a row's n-th token is a function of the row's seed and n only, and inverting the cumulative
distribution turns it into a token:

    probability  |--- token 0 ---|- token 1 -|------ token 2 ------|
    uniform draw                         ^ -> token 1

So the same prompt gives the same completion in every batch, up to rounding: a different batch can change a token only
if the draw is within a rounding error of the border between two tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np

from ...checks import check_whole_number
from ...errors import ConfigError, EngineError, require
from ...randomness import uniform_rows
from ..backend import Completion, Prompt
from ..chat import cut_at_stop, prompt_ids, too_long
from ..quiet import no_progress_bars

_STOP_CHECK_EVERY = 8
_COMPACT_BELOW = 0.75
_MASK = (1 << 64) - 1


class TransformersBackend:
    """Completes prompts with a local model, which is loaded at the first prompt.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        device: for example `"cpu"` or `"cuda"`; None uses a GPU if there is one.
        dtype: for example `"bfloat16"`; None uses the checkpoint's dtype.
        max_batch: maximum number of prompts per batch, at least 1.
        loaded: a loaded (model, tokenizer) pair to use instead of loading `model`.
        known_as: the model's name in cache keys; None uses `model`.

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
        loaded: tuple[Any, Any] | None = None,
        known_as: str | None = None,
    ) -> None:
        if not model:
            raise ConfigError('a model is needed: "simulated:hf:FOLDER" or "simulated:hf:NAME"')
        check_whole_number("max_batch", max_batch)
        self.model = model
        self._known_as = known_as or model
        self._device = device
        self._dtype = dtype
        self._max_batch = max_batch
        self._loaded = loaded
        self._lock = threading.Lock()
        self._closed = False

    @property
    def identity(self) -> str:
        """The model's name and dtype."""
        return self._known_as if self._dtype is None else f"{self._known_as} ({self._dtype})"

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
            model, tokenizer = self._load()
            ids = [prompt_ids(tokenizer, prompt.text) for prompt in prompts]
            context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
            results: list[Completion | None] = []
            for prompt, tokens in zip(prompts, ids, strict=True):
                problem = too_long(len(tokens), prompt.max_tokens, context) if tokens else "the prompt has no token"
                results.append(None if problem is None else Completion(failure=problem))
            # Sorted by length, so that a batch needs little padding.
            waiting = sorted((i for i, done in enumerate(results) if done is None), key=lambda i: len(ids[i]))
            for start in range(0, len(waiting), self._max_batch):
                rows = waiting[start : start + self._max_batch]
                try:
                    texts = _generate(model, tokenizer, [prompts[i] for i in rows], [ids[i] for i in rows])
                except RuntimeError as cause:  # out of memory, or a device failure
                    raise EngineError(f"the model {self.model!r} failed: {cause}") from cause
                for i, completion in zip(rows, texts, strict=True):
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

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            torch, transformers = require("torch", "train"), require("transformers", "train")
            if self._dtype is not None and not isinstance(getattr(torch, self._dtype, None), torch.dtype):
                raise ConfigError(f"dtype must be the name of a torch dtype such as 'bfloat16', got {self._dtype!r}")
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.model)
                with no_progress_bars("train"):
                    model = transformers.AutoModelForCausalLM.from_pretrained(self.model, dtype=self._dtype or "auto")
            except (OSError, ValueError) as cause:
                raise ConfigError(f"the model {self.model!r} could not be loaded: {cause}") from cause
            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._loaded = model.to(device).eval(), tokenizer
        return self._loaded


class _Row:
    """One completion in progress."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.completion: Completion | None = None

    def add(self, token: int, eos: frozenset[int], tokenizer: Any) -> None:
        """Append the next token; sets `completion` if it was the last one."""
        count = len(self.tokens) + 1
        if token in eos:
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


def _generate(model: Any, tokenizer: Any, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> list[Completion]:
    """Sample one completion per row, in one batch with a KV cache.

    Prompts are padded on the left, so that every row appends its next token in the same column (P padding, x prompt,
    o sampled token):

        row 0   P P x x x | o o o
        row 1   x x x x x | o o

    The first forward pass has tokens of shape `(rows, width)`, each later one `(rows, 1)`. Finished rows stay in the
    batch until enough of them have ended; then they are removed from the cache.
    """
    import torch

    from .cache import grow_in_place

    eos, device, width = _end_tokens(model, tokenizer), model.device, max(map(len, ids))
    filler = next(iter(eos), 0)
    tokens = torch.tensor([[filler] * (width - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
    rows = [_Row(prompt) for prompt in prompts]
    live = list(rows)
    # Otherwise the model computes logits for the whole prompt: with a large vocabulary, most of the memory.
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    cache, positions = None, (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        while True:
            output = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                **last_only,
            )
            if cache is None:
                cache = output.past_key_values
                grow_in_place(cache)
            chosen = _choose(output.logits[:, -1], live)
            for row, token in zip(live, chosen, strict=True):
                if row.completion is None:
                    row.add(token, eos, tokenizer)
            going = [i for i, row in enumerate(live) if row.completion is None]
            if not going:
                return [row.completion or Completion() for row in rows]
            tokens, positions = torch.tensor(chosen, device=device)[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            if len(going) <= _COMPACT_BELOW * len(live):
                keep = torch.tensor(going, device=device)
                cache.batch_select_indices(keep)
                tokens, positions, mask = tokens[keep], positions[keep], mask[keep]
                live = [live[i] for i in going]


def _choose(logits: Any, rows: Sequence[_Row]) -> list[int]:
    """Sample the next token of each row from logits of shape `(rows, vocabulary)`."""
    import torch

    if all(row.prompt.temperature == 0 for row in rows):
        return [int(token) for token in logits.argmax(-1)]
    temperatures = torch.tensor([row.prompt.temperature or 1.0 for row in rows], device=logits.device)
    kept = torch.tensor([row.prompt.top_p for row in rows], device=logits.device, dtype=torch.float64)
    seeds = np.array([row.prompt.seed & _MASK for row in rows], dtype=np.uint64)
    counts = np.array([len(row.tokens) for row in rows], dtype=np.int64)
    draws = torch.from_numpy(uniform_rows(seeds, counts)).to(logits.device)[:, None]
    scaled = logits.float() / temperatures[:, None]
    # Sort only rows with top_p < 1: sorting costs more than the rest of this function.
    nucleus = (kept < 1).nonzero().squeeze(-1)
    if len(nucleus):
        scaled[nucleus], order = scaled[nucleus].sort(dim=-1, descending=True, stable=True)
    shares = scaled.softmax(-1).double().cumsum(-1)
    # The nucleus is the shortest run of tokens with a total probability of at least `top_p`. The uniform draw times
    # that total is a position within the nucleus.
    last = (shares < kept[:, None]).sum(-1, keepdim=True).clamp(max=shares.shape[-1] - 1)
    places = torch.searchsorted(shares, draws * shares.gather(-1, last), right=True)
    chosen = torch.minimum(places, last)
    if len(nucleus):
        chosen[nucleus] = order.gather(-1, chosen[nucleus])
    greedy = torch.tensor([row.prompt.temperature == 0 for row in rows], device=logits.device)
    return [int(token) for token in torch.where(greedy, logits.argmax(-1), chosen.squeeze(-1))]


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
