"""What the robustness benchmark itself costs: everything but the agent, per episode and as a share of a run.

An agent that searches twice and then answers takes no time worth mentioning, so the CPU time of a run is that of the
benchmark: noise, searches over the 6,000 passages of the world, rules, scores, transcripts, results, tables and page.

With `--policy`, a language model plays a few questions of the same definition, and what is not spent in its sampler is
the benchmark's share. Loading the weights is left out. Everything else counts: the start (the world, its index, the
hash of the model's files), tokenising, and the page at the end. With more questions the share is therefore smaller.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from zerosearch_agents.commands.evaluate import exit_status
from zerosearch_agents.config.definition import Definition
from zerosearch_agents.evaluation.results import load_evaluation
from zerosearch_agents.players.spec import parse_agent

from ..measure import Case, make_parser, measure, print_timings, write_record
from .bench import RobustnessConfig, follow
from .definitions import load_definition

SHARE = 0.05
"""The largest share of a run that the benchmark may take."""


def agent(observation: str, info: Mapping[str, Any]) -> str:
    """Search twice for the question, then abstain."""
    return "<answer>unknown</answer>" if info["turn"] == 2 else f"<search>{info['question']}</search>"


def run(definition: Definition, player: str = f"{__name__}:agent") -> int:
    """Play a definition in a temporary folder; returns the number of episodes that were played.

    Args:
        definition: what to play.
        player: as `--agent`.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = follow(RobustnessConfig(agent=(player,), workers=1, output=Path(folder)), definition)
        with contextlib.redirect_stdout(io.StringIO()):
            status = exit_status(config, command="", definition=definition)
        assert status == 0
        cells = load_evaluation(Path(folder)).cells
        return sum(len(cell.episodes) for cell in cells if cell.spent)


@dataclass
class Clock:
    """CPU seconds of this process that were spent in some functions."""

    seconds: float = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is counted."""

        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **keywords)
            finally:
                self.seconds += time.process_time() - start

        return wrapper


@contextlib.contextmanager
def timed_policies() -> Iterator[tuple[Clock, Clock]]:
    """Two clocks of the policies that play in this process: of loading them, and of sampling turns."""
    from zerosearch_agents.policy import policy
    from zerosearch_agents.sampling.local import Sampler

    loading, sampling = Clock(), Clock()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(policy, "load_policy", loading.timed(policy.load_policy)))
        for name in ("__init__", "start", "extend", "run", "finish"):
            stack.enter_context(mock.patch.object(Sampler, name, sampling.timed(getattr(Sampler, name))))
        yield loading, sampling


def measure_policy(definition: Definition, player: str) -> dict[str, Any]:
    """The benchmark's share of the CPU time of a run with a policy.

    Args:
        definition: what it plays.
        player: `[LABEL=]FOLDER`, as `--agent`.

    Returns:
        A record: the agent's label, episodes, CPU seconds of the run without loading the weights and of the sampler,
        and the share of the former that is not the latter's.
    """
    with timed_policies() as (loading, sampling):
        start = time.process_time()
        episodes = run(definition, player)
        total = time.process_time() - start - loading.seconds
    return {
        "agent": parse_agent(player).label,
        "episodes": episodes,
        "cpu_s": total,
        "sampler_cpu_s": sampling.seconds,
        "share": (total - sampling.seconds) / total,
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and print the CPU time per episode, and the benchmark's share of a run with a language model."""
    parser = make_parser("robustness-overhead", __doc__, rounds=5)
    parser.add_argument("--definition", default="v1-small", help="definition to play (v1-small)")
    parser.add_argument("--policy", metavar="[LABEL=]FOLDER", help="also measure the share of a run with this policy")
    parser.add_argument("--questions", type=int, default=4, help="questions of each hop that the policy plays (4)")
    arguments = parser.parse_args(argv)
    definition = load_definition(arguments.definition)
    name = definition.name
    timings = measure([Case(name, lambda: run(definition))], rounds=arguments.rounds, seconds=0.0)
    print_timings(timings, "episode")
    cpu_ms = timings[name].median / 1e3
    enough_ms = cpu_ms * (1 - SHARE) / SHARE
    print(f"{cpu_ms:.2f} ms per episode: {SHARE:.0%} of a run with an agent that takes {enough_ms:.0f} ms per episode")
    model: dict[str, Any] = {}
    if arguments.policy:
        few = replace(definition, questions=min(arguments.questions, definition.questions))
        model = {"policy": measure_policy(few, arguments.policy)}
        figures = model["policy"]
        print(
            f"{figures['agent']}: {figures['episodes']} episodes take {figures['cpu_s']:.1f} CPU seconds, and "
            f"{figures['share']:.2%} of them are the benchmark's"
        )
    write_record(
        arguments.output,
        ("numpy", "torch", "transformers") if model else ("numpy",),
        timings=timings,
        cpu_ms=cpu_ms,
        share=SHARE,
        agent_ms=enough_ms,
        **model,
    )
    return 0
