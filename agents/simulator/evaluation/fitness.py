"""`zerosearch simulator probe`: four searches that say whether a language model is fit to play the search engine.

    zerosearch simulator probe --engine simulated:hf:MODEL
    zerosearch simulator probe --engine '{"kind": "simulated:hf:MODEL", "prompt": "few-shot", "prefill": "Doc 1:"}'

Two useful and two noisy searches, one sample each. The verdict is the line that `eval`, `train`, `serve` and
`simulator evaluate` print when they start with such an engine; this command also shows the documents.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets import load_dataset
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.types import full_text


@dataclass(frozen=True)
class SimulatorProbeConfig:
    """Say by four searches whether a language model is fit to play the search engine."""

    engine: str
    """The simulated engine, with options as JSON: '{"kind": "simulated:hf:DIR", "prefill": "Doc 1:"}'."""
    dataset: str | None = None
    """Dataset whose first questions are asked; unset: questions of general knowledge."""
    split: str = "test"
    """Split of the dataset."""
    top_k: int = 5
    """Documents per search."""

    def __post_init__(self) -> None:
        check_whole_number("top_k", self.top_k)


def run_probe(config: SimulatorProbeConfig, *, command: str = "") -> dict[str, Any]:
    """Print the verdict and the documents of each search.

    Returns:
        Counts for the last line of the output.

    Raises:
        ConfigError: an option is invalid, or the engine is not a simulated one.
        EngineError: none of the four searches was answered.
    """
    dataset = None if config.dataset is None else load_dataset(config.dataset, config.split)
    with contextlib.ExitStack() as stack:
        engine = make_engine(config.engine, dataset=dataset)
        stack.callback(engine.close)
        if not isinstance(engine, SimulatedEngine):
            raise ConfigError(
                f"only simulated engines are probed: expected simulated:BACKEND:MODEL, got {config.engine}"
            )
        fitness, line = engine.check_fitness(() if dataset is None else dataset.questions, config.top_k)
    print(line)
    for made in fitness.sets:
        print(f"\n{'noisy' if made.noisy else 'useful'}:{'' if made.failure is None else f' {made.failure}'}")
        for document in made.documents:
            print(f"  - {full_text(document)}")
    print()
    return {"fit": fitness.fit, "usable": fitness.usable, "with_answer": fitness.answered, "leaks": fitness.leaks}
