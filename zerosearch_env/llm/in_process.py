"""`InProcessBackend`: base class of the backends whose model runs in this process."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..errors import ConfigError, EngineError
from .backend import Completion, Prompt, model_identity
from .chat import prompt_ids, too_long


class LoadedModel(Protocol):
    """A model that completes prompts given as token ids."""

    # Any: tokenizers of Transformers have no common type without importing it
    tokenizer: Any
    context_tokens: int
    """Maximum tokens of a prompt and its completion."""

    def complete(self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> Sequence[Completion]:
        """Return one completion per prompt, in order; each has at least one token and fits into the context.

        Raises:
            EngineError: the model failed.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


class InProcessBackend(ABC):
    """Completes prompts with a model that is loaded at the first prompt. A pickled copy loads its own model.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        dtype: data type of the weights, if it is not the checkpoint's.
        revision: branch, tag or commit on the hub; None: the main branch.

    Raises:
        ConfigError: `model` is empty.
    """

    name: str

    def __init__(self, model: str, dtype: str | None, revision: str | None = None) -> None:
        if not model:
            raise ConfigError(
                f'a model is needed: "simulated:{self.name}:FOLDER", or the name of one on the Hugging Face Hub'
            )
        self.model = model
        self._dtype, self._revision = dtype, revision
        self._closed = False
        self._loaded: LoadedModel | None = None
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    @property
    def identity(self) -> str:
        """The model and its dtype; see `model_identity`."""
        return model_identity(self.model, self._dtype, self._revision)

    @abstractmethod
    def _load(self) -> LoadedModel:
        """Load the model.

        Raises:
            ConfigError: the model cannot be loaded.
            MissingExtraError: a library is not installed.
        """

    def complete(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """Return one completion per prompt, in order.

        Raises:
            EngineError: the backend is closed, or the model failed.
            ConfigError: the model cannot be loaded, or takes no system message.
            MissingExtraError: a library is not installed.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the backend is closed; build a new one", attempts=0)
            if not prompts:
                return []
            model = self._loaded = self._loaded or self._load()
            ids = [
                prompt_ids(
                    model.tokenizer, prompt.text, system=prompt.system, prefill=prompt.prefill, history=prompt.history
                )
                for prompt in prompts
            ]
            problems = [
                too_long(len(row), prompt.max_tokens, model.context_tokens) if row else "the prompt has no token"
                for prompt, row in zip(prompts, ids, strict=True)
            ]
            fitting = [i for i, problem in enumerate(problems) if problem is None]
            made = iter(model.complete([prompts[i] for i in fitting], [ids[i] for i in fitting]) if fitting else ())
        return [
            replace(next(made), prompt_tokens=len(row))
            if problem is None
            else Completion(failure=problem, too_long=bool(row))
            for problem, row in zip(problems, ids, strict=True)
        ]

    def close(self) -> None:
        """Release the model. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            model, self._loaded = self._loaded, None
        if model is not None:
            model.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the settings; a copy loads its own model."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Recreate the lock; the model is loaded at the first prompt."""
        self.__dict__ |= state
        self._loaded = None
        self._lock = threading.Lock()
