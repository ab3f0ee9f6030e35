"""A pretrained language model learns to search over real text: warm start, reinforcement learning, tests.

SmolLM2-135M-Instruct (or another model folder) answers questions over real passages of Wikipedia with a BM25 engine.
Measured are the model as downloaded, after a warm start on demonstrations, and after GRPO with a curriculum of noise;
next to each, RAG and direct answers with the same weights. Every stage is a command of the package and is printed.

Takes two to four hours per seed on two cores. The same command continues an interrupted run, and `--seeds 1 --add` adds
a seed to an earlier record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zerosearch_agents.report.figures import save
from zerosearch_env.errors import ConfigError, require
from zerosearch_env.identity import file_hash, folder_hash

from ...measure import machine, make_parser, write_record
from ..stages import Stage, described, kept_metrics
from .stages import SMOKE, Data, Sizes, seed_stages, untrained_stages
from .table import charts, markdown

LIBRARIES = ("torch", "transformers", "numpy")
KEPT_METRICS = ("step", "reward", "searches", "invalid_rate", "noise_level", "entropy", "update_kl", "updates",
                "groups_without_signal", "seconds")  # fmt: skip


def measured(stage: Stage, seed: int | None) -> list[dict[str, Any]]:
    """The cells of a finished test: EM and containment with their intervals, searches, and EM by relation."""
    from zerosearch_agents.evaluation.results import load_evaluation

    weights, kind = stage.name.removeprefix("test of ").split(", ")[:2]
    rows = []
    for cell in load_evaluation(stage.output).cells:
        summary = cell.summary()
        relations = {name: cell.summary(data_source=name).em.as_dict() for name in cell.data_sources}
        rows.append(
            {
                "seed": seed,
                "weights": weights,
                "agent": cell.agent,
                "kind": kind,
                "noise": cell.noise_level,
                "em": summary.em.as_dict(),
                "subem": summary.subem.as_dict(),
                "searches": round(summary.searches.mean, 3),
                "invalid_rate": round(summary.invalid_rate, 4),
                "relations": relations,
                "seconds": round(cell.seconds, 1),
            }
        )
    return rows


def trained(folder: Path) -> dict[str, Any]:
    """The hashes and the training metrics of a seed's folder."""
    policies = {name: folder_hash(folder / name / "policy") for name in ("warm", "trained")}
    return {
        "hashes": {"demonstrations": file_hash(folder / "demos" / "episodes.jsonl"), **policies},
        "steps": kept_metrics(folder / "trained", KEPT_METRICS),
    }


def earlier(path: Path, hashes: Mapping[str, str], sizes: Sizes) -> dict[str, Any]:
    """The record to which seeds are added.

    Raises:
        ConfigError: there is none, or it was made with another model, other data or other sizes.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no record to add seeds to. Leave out --add for the first ones.")
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    expected = {"hashes": dict(hashes), "sizes": json.loads(json.dumps(asdict(sizes)))}
    if differing := [name for name, value in expected.items() if record.get(name) != value]:
        raise ConfigError(
            f"{path} was made with other {' and '.join(differing)}, so these seeds cannot be added to it. Choose "
            "another file with --output, or leave out --add to replace it."
        )
    return record


def main(argv: list[str] | None = None) -> int:
    """Run all stages; write the record, tables and picture after each seed and after the model as downloaded."""
    parser = make_parser("real-llm", __doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model (python -m "
                        "zerosearch_benchmarks.models makes SmolLM2)")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(Data.FILES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds (0 1)")
    parser.add_argument("--add", action="store_true", help="keep the other seeds of the record at --output, which may "
                        "come from another machine, and its figures of the untrained model")  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs/real-llm"), help="folder of the runs (runs/real-llm)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the learner's "
                        "products; bfloat16 is faster on a processor with instructions for it (float32)")  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="all stages at a tiny size; the figures mean nothing")
    arguments = parser.parse_args(argv)
    require("matplotlib")  # before the first hour, not after the last
    model, sizes = arguments.model, SMOKE if arguments.smoke else Sizes()
    if not model.is_dir():
        raise ConfigError(f"{model}: no such folder. Make it with: python -m zerosearch_benchmarks.models FOLDER")
    data = Data(arguments.data)
    hashes = {path.name: file_hash(path) for path in data.files} | {model.name: folder_hash(model)}
    cells: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    if arguments.add:
        record = earlier(arguments.output, hashes, sizes)
        cells = [cell for cell in record["cells"] if cell["seed"] not in arguments.seeds]
        runs = [run for run in record["runs"] if run["seed"] not in arguments.seeds]

    def write() -> None:
        runs.sort(key=lambda run: int(run["seed"]))
        seeds = [run["seed"] for run in runs]
        record = {"seeds": seeds, "hashes": hashes, "sizes": sizes, "cells": cells, "runs": runs}
        write_record(arguments.output, LIBRARIES, **record)
        arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
        save(charts(record), arguments.output.with_suffix(".svg"))

    for seed in arguments.seeds:
        stages = list(seed_stages(model, data, sizes, arguments.runs, seed, arguments.dtype))
        for stage in stages:
            stage.run()
            if stage.name.startswith("test"):
                cells += measured(stage, seed)
        run: dict[str, Any] = {
            "seed": seed,
            **described(stages),
            "machine": machine(["zerosearch-env", *LIBRARIES]),
        }
        runs.append(run | trained(arguments.runs / f"seed-{seed}"))
        write()
    if all(cell["seed"] is not None for cell in cells):
        for stage in untrained_stages(model, data, sizes, arguments.runs):
            stage.run()
            cells += measured(stage, None)
        write()
    print(arguments.output.with_suffix(".md").read_text("utf-8"))
    return 0
