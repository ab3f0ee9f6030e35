r"""`zerosearch eval`: measure policies, your own agents and baselines at fixed noise levels.

    zerosearch eval --agent runs/quickstart/policy --agent baseline:rag --agent my_module:agent \
        --noise 0 0.25 0.5 0.75 1 --engine corpus --dataset world --split test --questions 300 --output runs/eval

Every agent gets the same questions and the same noise draws, with every --noise-kind (docs/noise.md). To continue an
interrupted evaluation, run the same command again with the same options and the same `--output`: it plays only the
episodes that are missing or failed, and those whose questions, agent, or engine's corpus, index or model have changed
since.

Exit status: 0 if every cell is complete, 3 if episodes are missing because an agent or an engine failed or the budget
is used up, 2 after any other error.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from zerosearch_env.checks import check_whole_number
from zerosearch_env.command_line import read_options
from zerosearch_env.datasets.prompts import check_prompts
from zerosearch_env.engines import SearchEngine, engine_name, make_engine
from zerosearch_env.engines.base import check_corpus, try_engine
from zerosearch_env.engines.kinds import add_noise_kinds
from zerosearch_env.engines.registry import engine_identity
from zerosearch_env.errors import AgentError, BudgetError, ConfigError
from zerosearch_env.game.noise import check_level
from zerosearch_env.game.noise_kinds import DISTRACTOR, NoiseKinds, NoiseMixture, read_mixture
from zerosearch_env.game.rules import Rules
from zerosearch_env.identity import dataset_identity, questions_hash
from zerosearch_env.loading import code_identity
from zerosearch_env.locks import locked
from zerosearch_env.privacy import redact
from zerosearch_env.types import Dataset

from ..evaluation.budget import Meter, read_budget, read_prices
from ..evaluation.evaluate import NOISE_LEVELS, evaluate
from ..evaluation.items import select_questions
from ..evaluation.results import Cell, CellKey
from ..evaluation.store import Store, forget
from ..players.identity import player_identities
from ..players.options import PlayConfig
from ..report.page import write_report
from ..runs.manifest import versions
from ..runs.output import RESULTS_FILE, TRANSCRIPTS_FOLDER

if TYPE_CHECKING:
    from rich.console import Console

    from ..config.definition import Definition

INCOMPLETE = AgentError.exit_status
"""Exit status of an evaluation with incomplete cells."""


@dataclass(frozen=True)
class EvalConfig(PlayConfig):
    """Measure agents at fixed noise levels: EM, F1 and subEM with 95 % intervals, searches, invalid actions."""

    agent: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An agent to measure; may be repeated. A policy directory ("tiny" is the shipped base model), a model's name
    on the Hugging Face Hub, openai:URL[,URL...][#MODEL], vllm:URL, menu:FILE.zip (Stable-Baselines3), your own
    module:callable, or a built-in player: baseline:direct, cot, rag, rag-own, iterative-rag, vote, search-o1,
    random or oracle. LABEL=... sets its name. Options of this agent only follow after commas, as in
    warm=runs/sft/policy,temperature=1. They are temperature, top_p and the entries of a card
    (docs/third-party-agents.md), and precede the command's."""
    tool_agent: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An agent that owns its loop, to measure next to the others; may be repeated. Your own file.py:callable or
    module:callable, called as agent(question, search) -> answer, for example with a framework. LABEL=... sets its
    name, and rules of this agent only follow after commas, as in mine=agent.py:agent,max_turns=3."""
    noise: tuple[float, ...] = NOISE_LEVELS
    """Noise levels: the probability that a search is noisy, each in [0, 1]."""
    noise_kind: tuple[str, ...] = (str(DISTRACTOR),)
    """Kinds of noise (docs/noise.md), each measured at every level: what a noisy search returns. A mixture gives each
    kind its share, as in distractor=0.5,counterfactual=0.5."""
    engine: tuple[str, ...] = ("corpus",)
    """Search engines: KIND, KIND:ARGUMENT, your own file.py:attribute or module:attribute, or with options as JSON:
    '{"kind": "retrieve:URL", "cache": "searches.sqlite", "dialect": "flashrag"}'."""
    split: str = "test"
    """Split of the dataset."""
    questions: int | None = 300
    """Number of questions, chosen by the seed; "None" asks all. With the same seed, a larger number adds questions to
    those of a smaller one."""
    samples: int = 1
    """Episodes per question, each with its own noise draws and sampled tokens: every figure is then the mean over these
    (mean@k), next to pass@k and majority@k. Policies need a temperature above 0 for it."""
    per_hop: bool = False
    """Ask that many questions for each number of hops, instead of that many in total."""
    output: Path = Path("runs/eval")
    """Folder for results.json and the transcripts. Episodes that are finished in it are not played again."""
    agent_tag: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """What no file shows, such as the version of a model behind an endpoint: TAG for all of your own agents
    and endpoints, or NAME=TAG for one. Cells measured with another tag are measured again; may be repeated."""
    fresh: bool = False
    """Delete the results of earlier runs in the output folder."""
    budget: tuple[str, ...] = ()
    """What this run of the command may spend: requests=1000, tokens=2e6 or money=5, or several. Then no further episode
    begins, those that have begun are finished, and the same command plays the rest (docs/robustness.md)."""
    price: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """The price of a model's tokens, READ,WRITTEN in money per million tokens, such as 0.15,0.6: what was spent is
    then shown and stored, and may be limited by --budget money=5. NAME=READ,WRITTEN is the price of one agent, and
    goes before that of all; may be repeated."""
    report: bool = True
    """Write report.html into the output folder."""
    noise_unit: Literal["search", "document"] = "search"
    """Whether noise is drawn once per search or once per document."""
    abstentions: tuple[str, ...] | None = None
    """Answers that count as declining to answer, each compared as a whole after normalisation; unset: "unknown",
    "I don't know" and the like (docs/noise.md)."""
    scores: tuple[str, ...] = ()
    """Additional scores: names such as zerosearch_em or r1_searcher_cover_em (docs/rewards.md), an LLM's verdict as
    judge:openai:URL[#MODEL], or your own file.py:function."""
    judge: str | None = None
    """An LLM whose verdict on every answer is reported next to EM, with how often the two agree: openai:URL[#MODEL], a
    server with OpenAI's chat API. Short for --scores judge:openai:URL[#MODEL]."""

    @property
    def all_scores(self) -> tuple[str, ...]:
        """The additional scores, the judge's verdict among them."""
        return self.scores if self.judge is None else (*self.scores, f"judge:{self.judge}")


def main(argv: list[str] | None = None) -> int:
    """Parse the options, run the evaluation and print the tables.

    Returns:
        The exit status: 0, or 3 if a cell is incomplete.
    """
    argv = sys.argv[1:] if argv is None else argv
    config = read_options(EvalConfig, argv, "zerosearch eval", description=__doc__)
    return exit_status(config, command=redact(shlex.join(["zerosearch", "eval", *argv])))


def exit_status(config: EvalConfig, *, command: str, definition: Definition | None = None) -> int:
    """Run an evaluation as a command does; for the arguments see `run_evaluation`.

    Returns:
        The exit status: 0, or 3 if a cell is incomplete or the budget is used up.
    """
    try:
        cells = run_evaluation(config, command=command, definition=definition)
    except BudgetError as stopped:
        print(stopped)
        return stopped.exit_status
    return 0 if all(cell.complete for cell in cells) else INCOMPLETE


def run_evaluation(config: EvalConfig, *, command: str = "", definition: Definition | None = None) -> tuple[Cell, ...]:
    """Measure every agent on every engine at every noise level, print the results and write the report.

    Args:
        config: the options.
        command: the command line, stored in the results so that the run can be repeated.
        definition: the definition of a benchmark that the options follow, stored in the results; None: none.

    Returns:
        The cells of this run.

    Raises:
        ConfigError: an option is invalid; raised before anything is played.
        AgentError: a third-party agent failed, and `on_agent_error` is "stop"; the results so far are in the output
            folder.
        BudgetError: the budget is used up and episodes are left; the results so far are written and printed. The
            message says what was spent and what is left.
    """
    from rich.console import Console

    from ..evaluation.display import print_curves, print_evaluation, print_failures
    from ..evaluation.progress import EvaluationDisplay

    levels, mixtures = _check(config)
    budget, prices = read_budget(config.budget), read_prices(config.price)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    rules = config.make_rules(noise_unit=config.noise_unit, scores=config.all_scores, abstentions=config.abstentions)
    dataset = config.load_dataset(config.split)
    items = select_questions(dataset.questions, config.questions, seed=config.seed, per_hop=config.per_hop)
    with contextlib.ExitStack() as stack:
        players = config.make_players(config.agent, stack, config.tool_agent)
        meter = Meter(budget, prices, players)
        questions = [item.question for item in items]
        for player in players:
            check_prompts(player.rules_for(rules), questions)
        top_k = max(player.rules_for(rules).top_k for player in players)
        specs = {engine_name(spec): spec for spec in config.engine}
        engines: dict[str, SearchEngine] = {}
        for name, spec in specs.items():
            engine = make_engine(spec, dataset=dataset)
            stack.callback(engine.close)
            engines[name] = add_noise_kinds(engine, NoiseKinds(mixtures), dataset.questions) if any(levels) else engine
            check_corpus(engines[name], questions, top_k, noise=max(levels) > 0)
            try_engine(engines[name], questions, top_k)
        planned = [
            CellKey(player.name, name, level, str(mixture))
            for player, name, level, mixture in itertools.product(players, engines, levels, mixtures)
        ]
        counted = _without_copies(planned, {player.name for player in players if not player.searches})
        stack.enter_context(locked(config.output))
        if config.fresh:
            forget(config.output)
        store = Store(
            config.output,
            _settings(config, rules, len(items)),
            player_identities(players, config.agent_tag, rules),
            contents=dataset_identity(
                dataset, questions, prompts=any(player.rules_for(rules).dataset_prompts for player in players)
            )
            | code_identity([config.protocol or "", *config.all_scores]),
            engines={name: engine_identity(engine, specs[name]) for name, engine in engines.items()},
            noise=_noise_identity(mixtures, dataset),
            definition=None if definition is None else definition.record,
            planned=planned,
        )
        store.add(command=command, versions=versions(), skipped_rows=dataset.skipped_rows)
        if store.replaced:
            console.print(store.replaced)
        per_cell = len(items) * config.samples
        if definition is not None:
            console.print(
                f"definition {definition.name} ({definition.hash}), {per_cell * definition.played:,} episodes per agent"
            )
        _print_task(console, config, dataset, [len(items), len(players), len(levels), len(mixtures), len(engines)])
        for note in dict.fromkeys(note for player in players for note in player.notes(rules)):
            console.print(note)
        if config.samples > 1 and (greedy := [p.name for p in players if p.greedy]):
            console.print(
                f"{', '.join(greedy)}: temperature 0, so the samples of a question differ only by their noise draws; "
                "set --temperature, for example to 0.7"
            )
        stopped: BudgetError | None = None
        display = EvaluationDisplay(console, per_cell * len(counted), counted=counted, spent=meter.figures)
        try:
            with display:
                for (name, engine), player in itertools.product(engines.items(), players):
                    evaluate(
                        player,
                        items,
                        engine,
                        rules,
                        levels,
                        config.seed,
                        noise_kinds=mixtures,
                        samples=config.samples,
                        engine_name=name,
                        store=store,
                        meter=meter,
                        on_progress=display.on_progress,
                        on_cell=display.on_cell,
                    )
        except BudgetError as error:
            stopped = error
        except (AgentError, KeyboardInterrupt):
            console.print(f"stopped; the results so far are in {config.output}, and the same command plays the rest")
            raise
    found = {key: store.evaluation.find(key.agent, key.noise_level, key.engine, key.noise_kind) for key in planned}
    cells = tuple(cell for cell in found.values() if cell is not None)
    if cells:
        print_evaluation(store.evaluation, console)
        if definition is not None:
            print_curves(store.evaluation, console)
    console.print(f"results:     {config.output / RESULTS_FILE}")
    console.print(f"transcripts: {config.output / TRANSCRIPTS_FOLDER}")
    if config.report and cells:
        console.print(f"report:      {write_report(config.output)}")
    if meter.spent.money is not None and stopped is None:
        console.print(f"spent:       {meter.describe()}")
    print_failures([cell for cell in cells if stopped is None or len(cell.finished) < len(cell.episodes)], console)
    if stopped is not None:
        finished = sum(len(cell.finished) for key, cell in found.items() if cell is not None and key in counted)
        left = per_cell * len(counted) - finished
        raise BudgetError(
            f"{stopped}; {left:,} of {per_cell * len(counted):,} episodes are left, and the same command plays them "
            "with the same budget again"
        )
    return cells


def _check(config: EvalConfig) -> tuple[tuple[float, ...], tuple[NoiseMixture, ...]]:
    """The noise levels and the kinds of noise to play.

    Raises:
        ConfigError: an option is missing or invalid.
    """
    if not config.agent and not config.tool_agent:
        raise ConfigError(
            "no agent given: pass --agent or --tool-agent at least once, for example --agent baseline:rag"
        )
    if not config.noise:
        raise ConfigError("no noise level given: pass at least one, for example --noise 0 0.5")
    if not config.noise_kind:
        raise ConfigError("no kind of noise given: pass at least one, for example --noise-kind distractor")
    check_whole_number("samples", config.samples)
    levels = tuple(check_level(level) for level in config.noise)
    return levels, tuple(dict.fromkeys(read_mixture(text) for text in config.noise_kind))


def _without_copies(planned: Sequence[CellKey], silent: Collection[str]) -> set[CellKey]:
    """The cells that are played: without noise one for all kinds, and one for an agent that never searches.

    Args:
        planned: all cells.
        silent: names of the agents that never search.
    """
    played: dict[CellKey, CellKey] = {}
    for key in planned:
        same = key._replace(noise_level=0.0) if key.agent in silent else key
        played.setdefault(same.played, key)
    return set(played.values())


def _print_task(console: Console, config: EvalConfig, dataset: Dataset, counts: Sequence[int]) -> None:
    questions, agents, levels, kinds, engines = counts
    console.print(
        f"{_count(questions, 'question')} of {dataset.name}/{dataset.split}, "
        f"{f'{config.samples} samples each, ' if config.samples > 1 else ''}{_count(agents, 'agent')}, "
        f"{_count(levels, 'noise level')}, "
        f"{f'{kinds} kinds of noise, ' if kinds > 1 else ''}{_count(engines, 'engine')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _settings(config: EvalConfig, rules: Rules, questions: int) -> dict[str, Any]:
    """The settings that an earlier run must share for its cells to be reused."""
    eval_settings = {name: getattr(config, name) for name in ("split", "per_hop", "noise_unit")}
    if config.samples > 1:
        eval_settings["samples"] = config.samples
    abstentions = None if config.abstentions is None else list(config.abstentions)
    eval_settings |= {"questions": questions, "scores": list(config.all_scores), "abstentions": abstentions}
    return {**config.play_settings(rules), **eval_settings}


def _noise_identity(mixtures: Sequence[NoiseMixture], dataset: Dataset) -> dict[str, str]:
    """The record of the questions that noise is made of: all of the dataset. Distractors need none."""
    if set(mixtures) == {DISTRACTOR}:
        return {}
    return {f"the pool of questions for noise ({dataset.name}, {dataset.split})": questions_hash(dataset.questions)}
