"""The manifest of a dense index, whose folder also holds `index.faiss`, the vectors in the format of faiss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..indexes.folder import Manifest

FAISS_FILE = "index.faiss"
KINDS = ("flat", "hnsw", "ivf")


@dataclass(frozen=True, kw_only=True)
class DenseManifest(Manifest):
    """The content of `index.json`; `kind` is `"flat"` (exact), `"hnsw"` or `"ivf"` (approximate)."""

    NAME: ClassVar[str] = "dense"
    FORMAT: ClassVar[int] = 1
    DATA_FILES: ClassVar[tuple[str, ...]] = (FAISS_FILE,)

    dimension: int
    metric: str
    """`"cosine"` (vectors have length 1) or `"inner_product"`."""
    encoder: str
    """Path or name of the encoder."""
    encoder_fingerprint: str
    probes: list[list[float]]
    """The encoder's embeddings of `encoders.PROBES`, as returned by `encoders.probe`."""
    template: str
    """Template for the text of a passage, with `{title}` and `{text}`."""
    query_prefix: str
    passage_prefix: str

    @property
    def normalize(self) -> bool:
        """Whether vectors are scaled to length 1."""
        return self.metric == "cosine"
