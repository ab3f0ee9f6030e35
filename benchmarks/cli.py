"""`zerosearch bench`: run a benchmark by name. Each prints its results and writes them as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from zerosearch_env.commands.dispatch import Command, group_help, run_command

_MODULES = {
    "env-real-text": (
        "speed.env_real_text",
        "CPU time of the environment per step with real text, compared with gem-llm and skyrl-gym.",
    ),
    "corpus-scale": (
        "speed.corpus.scale",
        "Building, opening and searching a large corpus of real text, compared with bm25s and Tantivy.",
    ),
    "corpus-episodes": (
        "speed.corpus.episodes",
        "Episodes per CPU second of function agents over a large corpus, and what each kind of noise adds to a search.",
    ),
    "guard": ("noise.guard", "Misses, false alarms and speed of the detector of gold answers, on real text."),
    "dense": (
        "speed.dense",
        "Passages and queries per CPU second of the dense engine, and recall of its approximate indexes.",
    ),
    "simulated": ("speed.simulated", "The simulated engine: client cost, throughput with a server, cache hits."),
    "datasets": ("speed.data.datasets", "CPU time of loading a million questions, compared with the library datasets."),
    "world-generation": ("speed.data.world_generation", "Passages per second of the synthetic world."),
    "sampler": ("speed.sampler", "Tokens per CPU second of the batched sampler, compared with a loop over generate."),
    "rollouts": (
        "speed.rollouts",
        "Duration of rollouts with varying latencies, compared with lock-step and a lower bound.",
    ),
    "agents": (
        "speed.agents",
        "Throughput of many agents of third parties, compared with the ideal, and memory per finished episode.",
    ),
    "endpoint": (
        "speed.endpoint",
        "Evaluating a model behind an endpoint: throughput compared with the ideal, and CPU time per turn.",
    ),
    "learner": (
        "speed.learner.bench",
        "Tokens per CPU second and memory of the optimisation step, compared with TRL's GRPOTrainer.",
    ),
    "learning": ("learning.quickstart", "Exact match after the quickstart, for several seeds."),
    "stability": (
        "learning.stability.bench",
        "Effect of known bugs of search-RL code on training, compared with this learner, three seeds.",
    ),
    "real-llm": (
        "learning.real_llm.bench",
        "A pretrained language model learns to search over real text: every stage, with tests before and after.",
    ),
    "simulator-real": (
        "learning.simulator_real.bench",
        "A pretrained language model tuned as the search engine on real snippets, and a policy trained against it.",
    ),
    "robustness": (
        "robustness.bench",
        "How robust agents are to noisy searches: every kind and level of a frozen definition, for any agent.",
    ),
    "robustness-overhead": ("robustness.overhead", "CPU time of the robustness benchmark itself per episode."),
    "kinds": (
        "learning.kinds.bench",
        "Kinds of noise: the quickstart's policy under each, and what training on a mixture or to abstain changes.",
    ),
    "sb3": (
        "learning.sb3.bench",
        "Agents of Stable-Baselines3 on the menu environment: four algorithms, three seeds, every noise level.",
    ),
    "serve": (
        "speed.serve.bench",
        "Requests per second of the retrieval server, compared with a plain FastAPI and bm25s server.",
    ),
    "openenv": (
        "speed.openenv",
        "Calls per second of the OpenEnv server, compared with OpenEnv's echo environment, and its memory.",
    ),
    "report": ("speed.reports.stored", "The report over 100,000 stored episodes: CPU time, memory, and sizes."),
    "report-page": ("speed.reports.page", "The report's page in Chromium: seconds until it is rendered and filtered."),
    "gpu": ("gpu.command", "Every check that needs a GPU; benchmarks/gpu.sh runs it on a bare machine."),
    "start": ("speed.start", "Time of `import zerosearch_env`, of the first search, and of each `--help`."),
}
BENCHMARKS = {name: Command(f"{__package__}.{module}", summary) for name, (module, summary) in _MODULES.items()}


def help_text() -> str:
    """The text of `zerosearch bench --help`."""
    return group_help("zerosearch bench", "NAME", BENCHMARKS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark named by the first argument; the other arguments are passed to it.

    Raises:
        ConfigError: no benchmark has that name.
    """
    return run_command("benchmark", BENCHMARKS, help_text, argv or ())
