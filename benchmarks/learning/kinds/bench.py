"""What kinds of noise do to the quickstart's policy, and what training on them, or to abstain, changes.

The shipped policy is trained on distractors, as in the quickstart, and on a mixture of kinds; a policy that has been
shown to abstain is trained with exact match and with the ternary reward, on noise that reaches 1. Before and after, all
are tested under every kind of noise. Every stage is a command of the package and is printed.

The same command continues an interrupted run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_env.identity import folder_hash

from ...measure import make_parser, write_record
from ..stages import described
from .figures import differences, figures
from .stages import SMOKE, TRAININGS, Sizes, seed_stages, shared_stages
from .table import markdown

LIBRARIES = ("torch", "transformers", "numpy")


def main(argv: list[str] | None = None) -> int:
    """Run all stages; write the record and the tables after each seed."""
    parser = make_parser("kinds", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    parser.add_argument("--runs", type=Path, default=Path("runs/kinds"), help="folder of the runs (runs/kinds)")
    parser.add_argument("--kinds", nargs="+", default=Sizes().kinds, help="kinds of noise in the tests (all)")
    parser.add_argument("--smoke", action="store_true", help="all stages at a tiny size; the figures mean nothing")
    arguments = parser.parse_args(argv)
    sizes = replace(SMOKE if arguments.smoke else Sizes(), kinds=tuple(arguments.kinds))
    shared = list(shared_stages(sizes, arguments.runs))
    for stage in shared:
        stage.run()
    evaluations = [load_evaluation(shared[-1].output)]
    runs = [{"seed": None, **described(shared)}]
    hashes = {"abstaining": folder_hash(arguments.runs / "abstaining" / "policy")}
    for number, seed in enumerate(arguments.seeds, start=1):
        stages = list(seed_stages(sizes, arguments.runs, seed))
        for stage in stages:
            stage.run()
        evaluations.append(load_evaluation(stages[-1].output))
        folders = {name: arguments.runs / f"seed-{seed}" / f"train-{name}" / "policy" for name in TRAININGS}
        hashes |= {f"{name}, seed {seed}": folder_hash(folder) for name, folder in folders.items()}
        runs.append({"seed": seed, **described(stages)})
        record = {
            "seeds": arguments.seeds[:number],
            "sizes": sizes,
            "hashes": hashes,
            "figures": figures(evaluations),
            "differences": differences(evaluations),
            "runs": runs,
        }
        write_record(arguments.output, LIBRARIES, **record)
        arguments.output.with_suffix(".md").write_text(markdown(record), "utf-8")
    print(arguments.output.with_suffix(".md").read_text("utf-8"))
    return 0
