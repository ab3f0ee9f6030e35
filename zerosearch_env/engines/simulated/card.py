"""The card of a tuned simulation LLM: `simulator.json` in the model's folder, which names the prompt it was tuned with.

Whoever makes such a model writes the card, and `simulated:hf:FOLDER` and `simulated:vllm:FOLDER` read it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ...errors import CheckpointError, ConfigError, sentence
from .prompts import style_name

CARD_FILE = "simulator.json"
CARD_VERSION = 1


@dataclass(frozen=True, slots=True)
class SimulatorCard:
    """How a simulation LLM was made."""

    prompt_id: str
    """Name and version of the prompt that it was tuned with."""
    max_documents: int
    """Maximum number of documents per training example."""
    base: str
    """The model that it was tuned from."""
    pairs_sha256: str = ""
    """SHA-256 of the file with the training pairs; empty if the examples did not come from a file."""

    @property
    def prompt(self) -> str:
        """The prompt's style, as in the engine's option `prompt`.

        Raises:
            ConfigError: this release has no such prompt.
        """
        return style_name(self.prompt_id)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write the card into a model's folder."""
        values = {"version": CARD_VERSION, **asdict(self)}
        (Path(folder) / CARD_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_card(folder: str | os.PathLike[str]) -> SimulatorCard | None:
    """Read the card in a model's folder; None if there is no card, as for an ordinary language model.

    Raises:
        CheckpointError: the card is damaged, was written by another release, or names a prompt that this release does
            not have. The message says how to load the model anyway.
    """
    file = Path(folder) / CARD_FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values.pop("version", None) if isinstance(values, dict) else None
        if version != CARD_VERSION:
            raise ConfigError(f"it has version {version!r}, and this release reads version {CARD_VERSION}")
        types = {field.name: field.type for field in fields(SimulatorCard)}
        if {name: type(value).__name__ for name, value in values.items()} != types:
            raise ConfigError(f"expected the fields {types}, got {values!r:.200}")
        card = SimulatorCard(**values)
        style_name(card.prompt_id)
    except ValueError as cause:
        raise CheckpointError(
            f"{file}, which names the prompt that the model was tuned with, cannot be used: {sentence(cause)} To load "
            "the model anyway, set the engine's option `prompt`."
        ) from cause
    return card
