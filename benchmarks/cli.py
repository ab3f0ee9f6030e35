"""`zerosearch bench`: runs one benchmark by name; each prints what it found and writes a JSON record."""

from __future__ import annotations

import importlib

from zerosearch_env.errors import unknown_name

BENCHMARKS = {
    "env-overhead": ("speed.env_overhead", "CPU time of the environment per step, beside gem-llm."),
    "corpus-engine": ("speed.corpus_engine", "Queries per CPU second of the corpus engine, beside plain bm25s."),
    "dense": (
        "speed.dense",
        "Passages and queries per CPU second of the dense engine, and recall of its approximate kinds.",
    ),
    "simulated": ("speed.simulated", "The simulated engine: cost of its client, throughput on a server, cache hits."),
    "world-generation": ("speed.world_generation", "Passages per second of the synthetic world."),
    "sampler": ("speed.sampler", "Tokens per CPU second of the batched sampler, beside a loop over generate."),
    "rollouts": (
        "speed.rollouts",
        "Seconds of rollouts with latencies of their own, beside lock-step and a lower bound.",
    ),
    "learner": (
        "speed.learner.bench",
        "Tokens per CPU second and memory of the optimisation step, beside TRL's GRPOTrainer.",
    ),
    "learning": ("learning.quickstart", "What the quickstart learns, for several seeds."),
    "stability": (
        "learning.stability.bench",
        "What known faults of search-RL code do to a run, beside this learner, three seeds.",
    ),
    "serve": ("speed.serve", "Requests per second of the retrieval server under 200 clients, beside one by one."),
    "gpu": ("gpu.command", "Every check that needs a GPU; benchmarks/gpu.sh runs it on a bare machine."),
    "import-time": ("speed.import_time", "What `import zerosearch_env` costs."),
}


def help_text() -> str:
    """The text of `zerosearch bench --help`."""
    width = max(map(len, BENCHMARKS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in BENCHMARKS.items()]
    return "\n".join(
        ["usage: zerosearch bench NAME [options]", "", *lines, "", "zerosearch bench NAME --help says what it takes"]
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark that the first argument names, with the rest as its arguments.

    Raises:
        ConfigError: no benchmark has that name.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(help_text())
        return 0
    if argv[0] not in BENCHMARKS:
        raise unknown_name("benchmark", argv[0], BENCHMARKS)
    module = importlib.import_module(f".{BENCHMARKS[argv[0]][0]}", __package__)
    status: int = module.main(argv[1:])
    return status
