"""A pretrained language model is tuned to play the search engine on real snippets, and a policy trains against it.

The snippets come from trajectories of agents that searched with Google. The model is measured on held-out searches as
downloaded and tuned. If four searches find it fit, a warm policy (one of `zerosearch bench real-llm`) is trained for a
few steps against it and, from the same start on the same questions, against BM25; both are tested on BM25. Every stage
is a command of the package and is printed.

Takes about an hour on two cores. The same command continues an interrupted run.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_agents.runs.metrics import read_metrics
from zerosearch_env.engines import make_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.errors import ConfigError
from zerosearch_env.identity import file_hash, folder_hash

from ...measure import machine, make_parser, write_record
from ..real_llm.stages import Data
from ..stages import Stage, described, kept_metrics
from .stages import SMOKE, Sizes, policy_stages, simulated, simulator_stages
from .table import markdown

LIBRARIES = ("torch", "transformers", "numpy")
KEPT_METRICS = ("step", "reward", "searches", "noise_level", "answer_in_documents", "seconds")


def fitness(model: Path) -> dict[str, Any]:
    """What `zerosearch simulator probe` finds with one document per search, as the policies have."""
    with contextlib.closing(make_engine(json.loads(simulated(model)))) as engine:
        assert isinstance(engine, SimulatedEngine)
        found, line = engine.check_fitness((), 1)
    return {"fit": found.fit, "usable": found.usable, "answered": found.answered, "leaks": found.leaks, "line": line}


def policy_figures(test: Stage) -> list[dict[str, Any]]:
    """EM and searches of every policy at every noise level of the test."""
    cells = [(cell, cell.summary()) for cell in load_evaluation(test.output).cells]
    return [
        {
            "policy": cell.agent,
            "noise": cell.noise_level,
            "em": summary.em.as_dict(),
            "searches": round(summary.searches.mean, 3),
        }
        for cell, summary in cells
    ]


def main(argv: list[str] | None = None) -> int:
    """Run all stages; write the record and the tables after the simulator and after the policies."""
    parser = make_parser("simulator-real", __doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the language model (python -m "
                        "zerosearch_benchmarks.models makes SmolLM2)")  # fmt: skip
    parser.add_argument("--trajectories", type=Path, required=True, help="JSON lines {question, answers, prediction, "
                        "searches [{query, documents}]} with real results")  # fmt: skip
    parser.add_argument("--policy", type=Path, required=True, help="the warm policy (runs/real-llm/seed-0/warm/policy)")
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(Data.FILES)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the policies' training (0)")
    parser.add_argument("--runs", type=Path, default=Path("runs/simulator-real"), help="folder of the runs "
                        "(runs/simulator-real)")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the products in "
                        "training; bfloat16 is faster on a processor with instructions for it (float32)")  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="all stages at a tiny size; the figures mean nothing")
    arguments = parser.parse_args(argv)
    for name in ("model", "trajectories", "policy"):
        if not getattr(arguments, name).exists():
            raise ConfigError(f"--{name}: {getattr(arguments, name)} does not exist.")
    data, sizes = Data(arguments.data), SMOKE if arguments.smoke else Sizes()
    stages = list(simulator_stages(arguments.model, arguments.trajectories, sizes, arguments.runs, arguments.dtype))
    for stage in stages:
        stage.run()
    tuned = arguments.runs / "tuned" / "model"
    record: dict[str, Any] = {
        "sizes": sizes,
        "hashes": {path.name: file_hash(path) for path in (arguments.trajectories, *data.files)}
        | {"model": folder_hash(arguments.model), "tuned": folder_hash(tuned), "policy": folder_hash(arguments.policy)},
        "pairs": json.loads((arguments.runs / "pairs" / "pairs.manifest.json").read_text("utf-8"))["counts"],
        "tuning": read_metrics(arguments.runs / "tuned" / "metrics.jsonl"),
        "fitness": {"before": fitness(arguments.model), "after": fitness(tuned)},
    }
    for name in ("before", "after"):
        record[name] = json.loads((arguments.runs / name / "evaluation.json").read_text("utf-8"))
    if record["fitness"]["after"]["fit"] or arguments.smoke:
        trainings = list(policy_stages(arguments.policy, data, sizes, arguments.runs, arguments.seed, arguments.dtype))
        for stage in trainings:
            stage.run()
        stages += trainings
        record["policies"] = policy_figures(trainings[-1])
        record["training"] = {stage.name: kept_metrics(stage.output, KEPT_METRICS) for stage in trainings[:-1]}
    else:
        print("The tuned model is not fit, so no policy is trained against it.")
    record |= described(stages)
    record["machine"] = machine(["zerosearch-env", *LIBRARIES])
    write_record(arguments.output, LIBRARIES, **record)
    arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
    print(arguments.output.with_suffix(".md").read_text("utf-8"))
    return 0
