"""Training pairs that are made in a moment, and a training run of seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from zerosearch_agents.config.tune import TinyShape, TuneConfig
from zerosearch_agents.sft import tuner
from zerosearch_agents.simulator.cli import main
from zerosearch_agents.simulator.pairs.pair import Pair, as_record
from zerosearch_env.records.transcripts import encode_line
from zerosearch_env.types import Document

TREES = "oak ash elm birch larch alder hazel rowan maple poplar willow cedar".split()


def make_pairs(count: int = 24) -> list[Pair]:
    """Useful pairs name the tree, noisy ones another; every sixth is held out."""
    pairs = []
    for i in range(count):
        tree, other = TREES[i % len(TREES)], TREES[(i + 5) % len(TREES)]
        noisy = i % 2 == 1
        texts = [f"In garden {i} grows the {other if noisy else tree}.", "It is " + "very " * (i % 7) + "old."]
        documents = tuple(Document("", text) for text in texts[: 1 + i % 3 // 2])
        part = "test" if i % 6 >= 4 else "train"
        pairs.append(
            Pair("tuned-1", f"Which tree grows in garden {i}?", (tree,), f"garden {i}", noisy, documents, part)
        )
    return pairs


def write_pairs(pairs: list[Pair], folder: Path) -> Path:
    """The pairs as a file in a folder."""
    path = folder / "pairs.jsonl"
    path.write_bytes(b"".join(encode_line(as_record(pair)) for pair in pairs))
    return path


def small_run(pairs_file: Path, **options: object) -> TuneConfig:
    """A run over the pairs with a model of some ten thousand parameters."""
    shape = TinyShape(hidden=32, layers=3, heads=4, mlp=48, vocab_size=640, context_tokens=2048)
    base = {"init": "tiny", "tiny": shape, "output": pairs_file.parent / "run", "batch_size": 6, "epochs": 2.0}
    return TuneConfig(input=pairs_file, **{**base, "device": "cpu", "checkpoint_every": 2, "eval_every": 2, **options})


def killed_at_step(number: int, *arguments: str) -> None:
    """Run `zerosearch simulator ARGUMENTS` in this process, and kill it before a step."""
    step = tuner.tune_step

    def killed(state: tuner.Tuner, index: int) -> dict[str, float]:
        if index == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(state, index)

    tuner.tune_step = killed
    main(list(arguments))
