"""`zerosearch simulator extract`: make balanced training pairs from labelled trajectories, split by question.

The steps are, in this order: read; remove texts that the simulated engine would not accept as documents; cut or drop
sets by the number of documents; drop sets that contradict their label; remove duplicates; split; balance. Every step
counts what it leaves out. SimulationTuning-style files (prompt and
response strings) can be read too, and give the same pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets.files.rows import NumberedRow, OnBadRow, RowError, RowReader, read_files
from zerosearch_env.engines.simulated.prompts import STYLES, style_name
from zerosearch_env.engines.simulated.reject import prompt_words, rejection, text_key
from zerosearch_env.errors import ConfigError, DataError, unknown_name
from zerosearch_env.files import replaced_file
from zerosearch_env.randomness import mix, text_seed, uniform
from zerosearch_env.records.transcripts import encode_line
from zerosearch_env.types import Document

from ...runs.manifest import input_record, write_manifest
from .files import input_files, manifest_path
from .foreign import foreign_pair, looks_foreign
from .pair import Pair, as_record, one_line, pair_key, prompt_text, question_key
from .records import LABELS, TrajectoryReader, holds_answer

Keep = Literal["drop", "keep"]


@dataclass(frozen=True)
class ExtractConfig:
    """Make training pairs for a simulation LLM out of labelled trajectories."""

    input: tuple[Path, ...]
    """Files, or folders of shards: output of `label`, or SimulationTuning-style files (prompt/response,
    instruction/input/output, messages)."""
    output: Path = Path("runs/simulator/pairs.jsonl")
    """The JSONL file. An existing file is replaced. Its manifest is written next to it."""
    prompt: str = "tuned"
    """Style of the prompt that the pairs are trained with."""
    test_share: float = 0.1
    """Share of the questions that is held out, in [0, 1). All searches of a question are in the same part."""
    seed: int = 0
    """Random seed of the split and the balancing."""
    balance: bool = True
    """In each part, drop pairs of the more frequent label until both labels are equally frequent."""
    min_documents: int = 1
    """Sets with fewer documents are dropped."""
    max_documents: int | None = None
    """Sets with more documents are cut to the first ones."""
    noisy_with_answer: Keep = "drop"
    """Whether to keep noisy sets that contain a gold answer. They would teach the model to leak it."""
    useful_without_answer: Keep = "keep"
    """Whether to keep useful sets without a gold answer. Those of a first hop need not contain one."""
    contradictory: Keep = "keep"
    """Whether to keep sets that occur with both labels for the same query."""
    on_bad_row: OnBadRow = "raise"
    """Whether to stop at a bad row ("raise") or skip and count it ("skip")."""

    def __post_init__(self) -> None:
        if self.prompt not in STYLES:
            raise unknown_name("prompt", self.prompt, STYLES)
        if not 0 <= self.test_share < 1:
            raise ConfigError(f"test_share must lie in [0, 1), got {self.test_share!r}")
        check_whole_number("min_documents", self.min_documents)
        if self.max_documents is not None and self.max_documents < self.min_documents:
            raise ConfigError(f"max_documents ({self.max_documents}) is below min_documents ({self.min_documents})")


def run_extract(config: ExtractConfig, *, command: str = "") -> dict[str, int]:
    """Write the pairs of some files atomically.

    Returns:
        The counts of each step.

    Raises:
        DataError: a row is bad, a trajectory has no labels, or no pair is left.
    """
    files = input_files(config.input, config.output)
    reader, where = RowReader(config.on_bad_row), ", ".join(map(str, config.input))
    convert = _PairReader(STYLES[config.prompt].id)
    rows = list(reader.read(read_files(files), convert, where=where, what="trajectories or pairs"))
    pairs, counts = extract(chain.from_iterable(rows), config)
    counts = {"rows": len(rows) + reader.skipped, "skipped_rows": reader.skipped, **counts}
    if not pairs:
        raise DataError(f"no pair is left of {where}: {json.dumps(counts)}")
    digest = hashlib.sha256()
    with replaced_file(config.output) as stream:
        for pair in pairs:
            line = encode_line(as_record(pair))
            digest.update(line)
            stream.write(line)
    write_manifest(
        manifest_path(config.output),
        "extract",
        complete=True,
        settings=asdict(config),
        input=input_record(files),
        output_sha256=digest.hexdigest(),
        command=command,
        lines=len(pairs),
        counts=counts,
    )
    return counts


class _PairReader:
    """Converts a row to its pairs."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._trajectories = TrajectoryReader()

    def __call__(self, numbered: NumberedRow) -> list[Pair]:
        row = numbered.content
        if looks_foreign(row) and "searches" not in row and "turns" not in row:
            return [foreign_pair(row, self._prompt_id)]
        walk = self._trajectories(numbered)
        pairs = []
        for k, search in enumerate(walk.searches):
            if search.label is None:
                raise RowError(f"searches[{k}].label", "'useful' or 'noisy' (run `zerosearch simulator label`)", None)
            noisy = search.label == "noisy"
            pairs.append(Pair(self._prompt_id, walk.question, walk.answers, search.query, noisy, search.documents))
        return pairs


def extract(pairs: Iterable[Pair], config: ExtractConfig) -> tuple[list[Pair], dict[str, int]]:
    """Select and split pairs; returns those that are kept, in their order, and the counts of each step.

    Args:
        pairs: the pairs as read; their split is ignored.
        config: the options; its files are not accessed.
    """
    counts: Counter[str] = Counter()
    checked = list(_checked(pairs, config, counts))
    distinct: dict[tuple[object, ...], Pair] = {}
    for pair in checked:
        distinct.setdefault(pair_key(pair), pair)
    counts["duplicates"] = len(checked) - len(distinct)
    labels = Counter(pair_key(pair, label=False) for pair in distinct.values())
    clear = [pair for pair in distinct.values() if labels[pair_key(pair, label=False)] == 1]
    counts["contradictory"] = len(distinct) - len(clear)
    if config.contradictory == "keep":
        clear = list(distinct.values())
    split = [replace(pair, split=split_of(pair.question, config.test_share, config.seed)) for pair in clear]
    chosen = _balanced(split, config.seed, counts) if config.balance else split
    for part in ("train", "test"):
        members = [pair for pair in chosen if pair.split == part]
        for label in LABELS:
            counts[f"{part}_{label}"] = sum(pair.noisy is (label == "noisy") for pair in members)
        counts[f"{part}_questions"] = len({question_key(pair.question) for pair in members})
    return chosen, dict(counts)


def split_of(question: str, test_share: float, seed: int) -> Literal["train", "test"]:
    """The part that a question belongs to. It depends only on its words and the seed, not on other questions."""
    return "test" if uniform(seed, text_seed(question_key(question))) < test_share else "train"


def _checked(pairs: Iterable[Pair], config: ExtractConfig, counts: Counter[str]) -> Iterator[Pair]:
    """The pairs with an allowed number of documents that do not contradict their label."""
    for pair in pairs:
        counts["searches"] += 1
        pair = _without_rejected(pair, counts)
        if len(pair.documents) < config.min_documents:
            counts["too_few_documents"] += 1
            continue
        if config.max_documents is not None and len(pair.documents) > config.max_documents:
            counts["cut"] += 1
            pair = replace(pair, documents=pair.documents[: config.max_documents])
        answered = holds_answer(pair.documents, pair.answers)
        if pair.noisy and answered:
            counts["noisy_with_answer"] += 1
            if config.noisy_with_answer == "drop":
                continue
        if not pair.noisy and not answered:
            counts["useful_without_answer"] += 1
            if config.useful_without_answer == "drop":
                continue
        yield pair


def _without_rejected(pair: Pair, counts: Counter[str]) -> Pair:
    """The pair without texts that the engine rejects (`rejection`): a model learns to write what it is shown."""
    prompt = prompt_words(
        prompt_text(pair), STYLES[style_name(pair.prompt_id)], noisy=pair.noisy, count=len(pair.documents)
    )
    kept: list[Document] = []
    seen: set[str] = set()
    for document in pair.documents:
        text = one_line(document.text)
        reason = rejection(text, seen, prompt) if text else "fragment"
        if reason is not None:
            counts[f"{reason}_documents"] += 1
            continue
        seen.add(text_key(text))
        kept.append(document)
    return pair if len(kept) == len(pair.documents) else replace(pair, documents=tuple(kept))


def _balanced(pairs: Sequence[Pair], seed: int, counts: Counter[str]) -> list[Pair]:
    """Equally many useful and noisy pairs in each part; the choice depends only on the pairs and the seed."""
    left_out: set[int] = set()
    for part in ("train", "test"):
        groups = [
            [i for i, pair in enumerate(pairs) if pair.split == part and pair.noisy is noisy] for noisy in (False, True)
        ]
        few = min(map(len, groups))
        for group in groups:
            order = sorted(group, key=lambda i: (mix(seed, text_seed(repr(pair_key(pairs[i])))), i))
            left_out.update(order[few:])
    counts["balanced_away"] = len(left_out)
    return [pair for i, pair in enumerate(pairs) if i not in left_out]
