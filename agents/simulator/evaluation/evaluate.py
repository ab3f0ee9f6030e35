"""`zerosearch simulator evaluate`: measure a simulated engine's noise, style and leaks.

    zerosearch simulator evaluate --engine simulated:hf:runs/simulator/tuned/model             on the built-in world
    zerosearch simulator evaluate --engine simulated:hf:MODEL --input pairs.jsonl        against real documents

It has three parts: the same searches at every noise level, with coupled draws; the style of the documents compared
with a reference (`style.py`); and queries that try to extract the answer from noisy searches (`attacks.py`). Any
search engine can be evaluated; the figures "before the guard" need a simulated one, which counts them. Writes a JSON
report, and the tables as Markdown next to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerosearch_env.checks import check_whole_number
from zerosearch_env.datasets import load_dataset
from zerosearch_env.datasets.files.rows import OnBadRow
from zerosearch_env.datasets.world.make import WorldConfig
from zerosearch_env.engines import engine_name, make_engine
from zerosearch_env.engines.base import try_engine
from zerosearch_env.engines.run import run_searches
from zerosearch_env.errors import ConfigError, DataError, EngineError
from zerosearch_env.game.noise import check_level
from zerosearch_env.progress import ProgressBar
from zerosearch_env.randomness import mix
from zerosearch_env.types import Dataset, Document, Question, SearchRequest, SearchResult, full_text

from ...evaluation.evaluate import NOISE_LEVELS
from ...evaluation.statistics import EMPTY, wilson
from ...runs.manifest import SCHEMA_VERSION, input_record, versions, write_json
from ..pairs.files import input_files
from ..pairs.pair import read_pairs
from .attacks import ATTACKS, holds_encoded
from .measure import Answer, Answers, ask, level_report, plain, share
from .probes import Probe, at_level, choose, pair_probes, template_documents, world_probes
from .style import Sample, distinctness, halves, length, style_distance

if TYPE_CHECKING:
    from zerosearch_env.engines import SearchEngine

EXAMPLES = 5
"""Number of searches of each kind for which the report shows the documents."""


@dataclass(frozen=True)
class SimulatorEvalConfig:
    """Measure a simulated search engine: noise, leaks, style, attacks."""

    engine: str
    """The engine, as in `zerosearch eval`, with options as JSON: '{"kind": "simulated:hf:DIR", "temperature": 0.5}'. A
    model from `train` gets the prompt that it was tuned with."""
    input: Path | None = None
    """Pairs from `extract`, to use their held-out searches: a file, or a folder with its shards; unset: searches of the
    built-in world."""
    split: str = "test"
    """Split of the pairs or of the world."""
    reference: str | None = None
    """Engine to compare the documents' style with; unset: the documents of the pairs, or "corpus"."""
    output: Path = Path("runs/simulator/evaluation.json")
    """The report. The tables are written next to it as .md."""
    searches: int = 200
    """Maximum number of searches per level, chosen by the seed."""
    levels: tuple[float, ...] = NOISE_LEVELS
    """Noise levels, each in [0, 1]."""
    top_k: int | None = None
    """Documents per search; unset: the maximum in the pairs, or 5."""
    attack_questions: int = 5
    """Number of questions that every attack is tried on; 0 skips the attacks."""
    batch: int = 32
    """Number of searches per call of the engine."""
    seed: int = 0
    """Random seed for the choice of searches, the noise and the documents."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Size and seed of the built-in world."""
    on_bad_row: OnBadRow = "raise"
    """Whether to stop at a bad row of the pairs ("raise") or skip it ("skip")."""

    def __post_init__(self) -> None:
        for level in self.levels:
            check_level(level)
        for name, least in (("searches", 1), ("batch", 1), ("attack_questions", 0)):
            check_whole_number(name, getattr(self, name), least)
        if self.top_k is not None:
            check_whole_number("top_k", self.top_k)
        if not self.levels:
            raise ConfigError("levels must name at least one noise level")
        if self.output.suffix == ".md":
            raise ConfigError(
                f"output is the JSON report, and the tables go to a .md file next to it; got {self.output}"
            )


def run_evaluate(config: SimulatorEvalConfig, *, command: str = "") -> dict[str, Any]:
    """Evaluate an engine: print the tables and write the report.

    Returns:
        Counts for the last line of the output.

    Raises:
        ConfigError: an option is invalid.
        DataError: the pairs cannot be read, or none belongs to the split.
        EngineError: all searches of a level failed, in the engine or in the reference.
    """
    from .table import as_markdown, print_report

    source = None if config.input is None else input_record(input_files([config.input], config.output))
    dataset, probes = _searches(config)
    top_k = config.top_k or max((len(probe.documents) for probe in probes), default=0) or 5
    with contextlib.ExitStack() as stack:
        engine = make_engine(config.engine, dataset=dataset)
        stack.callback(engine.close)
        reference = None
        if config.reference is not None or config.input is None:
            reference = make_engine(config.reference or "corpus", dataset=dataset)
            stack.callback(reference.close)
        attacked = _attacked(probes, config)
        total = len(probes) * len(config.levels) + len(attacked) * len(ATTACKS)
        bar = stack.enter_context(ProgressBar("searches", total))
        asked = [Question(p.query, p.question, p.answers) for p in probes] if dataset is None else dataset.questions
        try_engine(engine, asked, top_k)
        # A first search loads the model, so that the measured times do not include it.
        run_searches(engine, [probes[0].request(probes[0].query, False, top_k, ~config.seed)])
        levels, answers_at = [], {}
        for level in config.levels:
            searches = at_level(probes, level, top_k=top_k, seed=config.seed)
            answers = ask(engine, searches, batch=config.batch, advance=lambda n: bar.advance(count=n))
            if not answers.answered:
                raise EngineError(f"all {len(answers.failures)} searches failed; the first: {answers.failures[0]}")
            answers_at[level] = answers.answered
            levels.append(level_report(level, answers))
        attacks = attack_report(engine, attacked, config, top_k, bar) if attacked else None
        style = style_report(config, probes, answers_at, reference, top_k)
    report = {
        "schema_version": SCHEMA_VERSION,
        "stage": "evaluate",
        "engine": engine_name(config.engine),
        "settings": asdict(config),
        "input": source,
        "command": command,
        "versions": versions(),
        "questions": len({probe.question for probe in probes}),
        "searches": len(probes),
        "top_k": top_k,
        "levels": levels,
        "style": style,
        "attacks": attacks,
        "examples": examples(answers_at),
    }
    write_json(config.output, report)
    config.output.with_suffix(".md").write_text(as_markdown(report), encoding="utf-8")
    print_report(report)
    failed = sum(level["failed"] for level in levels)
    return {"searches": len(probes), "levels": len(levels), "failed": failed, "report": str(config.output)}


def _searches(config: SimulatorEvalConfig) -> tuple[Dataset | None, list[Probe]]:
    if config.input is None:
        dataset = load_dataset("world", config.split, world=config.world)
        return dataset, choose(world_probes(dataset.questions), config.searches, config.seed)
    pairs = read_pairs(config.input, split=config.split, on_bad_row=config.on_bad_row)
    if not pairs:
        raise DataError(f"{config.input} has no pair with split {config.split!r}")
    return None, choose(pair_probes(pairs), config.searches, config.seed)


def attack_report(
    engine: SearchEngine, attacked: Sequence[Probe], config: SimulatorEvalConfig, top_k: int, bar: ProgressBar
) -> dict[str, Any]:
    """Run the attacks as noisy searches; the shares of results that reveal the answer, per family and in total."""
    rows = []
    for i, attack in enumerate(ATTACKS):
        searches = [
            (p, p.request(attack.of(p.question), True, top_k, mix(config.seed, 7, i, j)))
            for j, p in enumerate(attacked)
        ]
        answers = ask(engine, searches, batch=config.batch, advance=lambda n: bar.advance(count=n))
        rows.append((attack, answers))

    def summary(chosen: Sequence[Answers]) -> dict[str, Any]:
        answered = [answer for answers in chosen for answer in answers.answered]
        stats = [answers.stats for answers in chosen if answers.stats is not None]
        before = EMPTY
        if len(stats) == len(chosen):
            before = wilson(sum(s["leaks"] for s in stats), sum(s["noisy_sets"] for s in stats))
        return {
            "searches": len(answered),
            "failed": sum(len(answers.failures) for answers in chosen),
            "before": before,
            "after": share(answer.leaks for answer in answered),
            "encoded": share(holds_encoded(answer.result.documents, answer.probe.answers) for answer in answered),
        }

    families = dict.fromkeys(attack.family for attack, _ in rows)
    report = {family: summary([answers for attack, answers in rows if attack.family == family]) for family in families}
    gave_away = [attack.query for attack, answers in rows if any(answer.leaks for answer in answers.answered)]
    every = summary([answers for _, answers in rows])
    return plain(
        {
            "queries": len(ATTACKS),
            "questions": len({p.question for p in attacked}),
            "all": every,
            "families": report,
            "gave_away": gave_away,
        }
    )


def _attacked(probes: Sequence[Probe], config: SimulatorEvalConfig) -> list[Probe]:
    """One search for each of the first questions."""
    by_question = {probe.question: probe for probe in reversed(probes)}
    return list(reversed(by_question.values()))[: config.attack_questions]


def style_report(
    config: SimulatorEvalConfig,
    probes: Sequence[Probe],
    answers_at: dict[float, list[Answer]],
    reference: SearchEngine | None,
    top_k: int,
) -> dict[str, Any]:
    """Distances from the reference's documents at each level: the engine's, a template's and the reference's own.

    Raises:
        EngineError: all searches of a level failed in the reference.
    """
    rows: list[dict[str, Any]] = []
    known: dict[SearchRequest, SearchResult] = {}  # each probe has only two requests, useful and noisy
    for level, answers in answers_at.items():
        requests = [request for _, request in at_level(probes, level, top_k=top_k, seed=config.seed)]
        failed = 0
        if reference is None:
            real = [(probe.question, probe.documents) for probe in probes]
        else:
            new = [request for request in requests if request not in known]
            for start in range(0, len(new), config.batch):
                some = new[start : start + config.batch]
                known.update(zip(some, run_searches(reference, some), strict=True))
            results = [(request.question, known[request]) for request in requests]
            real = [(question, result.documents) for question, result in results if result.failure is None]
            failed = len(results) - len(real)
            if not real:
                raise EngineError(f"the reference {config.reference!r} failed every time: {results[0][1].failure}")
        compared = _by_question(real)
        template = _by_question([(request.question, template_documents(request)) for request in requests])
        engine_sample = _by_question([(answer.request.question, answer.result.documents) for answer in answers])
        rows.append(
            {
                "noise_level": level,
                "engine": style_distance(engine_sample, compared),
                "template": style_distance(template, compared),
                "reference": style_distance(*halves(compared)),
                "reference_failed": failed,
                "words": length([document for documents in engine_sample.values() for document in documents]),
                "reference_words": length([document for documents in compared.values() for document in documents]),
                "reference_distinct": distinctness([documents for _, documents in real]),
            }
        )
    name = config.reference or ("corpus" if config.input is None else "documents of the pairs")
    return {"reference": name, "levels": plain(rows)}


def examples(answers_at: dict[float, list[Answer]]) -> list[dict[str, Any]]:
    """The documents of some useful and some noisy searches."""
    rows = []
    for noisy in (False, True):
        kind = [answer for answers in answers_at.values() for answer in answers if answer.noisy is noisy]
        for answer in kind[:EXAMPLES]:
            texts = [full_text(document) for document in answer.result.documents]
            real = [full_text(document) for document in answer.probe.documents]
            rows.append(
                {
                    "noisy": noisy,
                    "question": answer.probe.question,
                    "answers": list(answer.probe.answers),
                    "query": answer.probe.query,
                    "documents": texts,
                    "real": real,
                }
            )
    return rows


def _by_question(results: Sequence[tuple[str, Sequence[Document]]]) -> Sample:
    grouped: dict[str, list[Document]] = {}
    for question, documents in results:
        grouped.setdefault(question, []).extend(documents)
    return grouped
