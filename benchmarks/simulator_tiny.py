"""The tiny simulation LLM on a test world: answers in useful and in noisy sets, style, documents per second.

No entity of the test split was seen in training. *First sample* is what the model writes before the engine checks it;
*returned* is what an environment gets. Style is compared with the documents of the corpus engine for the same
searches, beside those of a template that fills query and answer into set sentences, and beside the distance of two
halves of the real documents.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zerosearch_agents.simulator_world import FORMS, Search, draw_search
from zerosearch_env.datasets.world import WorldConfig, make_world
from zerosearch_env.engines import SearchEngine, make_engine
from zerosearch_env.engines.passages import full_text
from zerosearch_env.engines.simulated import SimulatedEngine
from zerosearch_env.engines.simulated_guard import leaks
from zerosearch_env.engines.simulated_parse import parse_documents
from zerosearch_env.engines.simulated_sets import SimulationOptions, make_set, sought_answers
from zerosearch_env.engines.simulated_spec import TINY_MODEL
from zerosearch_env.errors import require
from zerosearch_env.llm import TransformersBackend
from zerosearch_env.rewards import contains_answer
from zerosearch_env.types import Dataset, Document

from .measure import Case, default_output, machine, measure, print_timings, write_record
from .style_distance import style_distance

TEMPERATURE = 0.65
"""The default of "simulated:tiny"."""

Sets = list[tuple[Search, tuple[Document, ...]]]

_TEMPLATES = (
    "This page is about {query}. According to it, the answer is {answer}, and several other sources that were looked "
    "at for this overview say the same.",
    "{query}: many people ask about this every day. The usual reply is {answer}, as can be read in most works of "
    "reference on the subject.",
    "Here you find everything on {query}. Our editors have checked the facts, and {answer} is what they found after a "
    "long search in the archives.",
    "A reader wanted to know more on {query}. We asked an expert, who named {answer} without hesitation and told us "
    "some of the story behind it.",
    "Results for {query}. The first thing to know is {answer}; more details, pictures and links follow further down "
    "on this page.",
)


def template_documents(search: Search) -> tuple[Document, ...]:
    """What a simulator without a model would return: set sentences around the query and, if useful, the answer."""
    answer = "not known here" if search.request.noisy else (search.wanted or search.request.answers)[0]
    texts = [text.format(query=search.request.query, answer=answer) for text in _TEMPLATES]
    return tuple(Document(search.request.query, text) for text in texts[: search.request.top_k])


def searches(world: Dataset, count: int, seed: int) -> list[Search]:
    """So many searches about questions of the world, every other one noisy, five documents each."""
    rng = np.random.default_rng(seed)
    drawn = []
    for number, i in enumerate(rng.permutation(len(world.questions))[:count].tolist()):
        other = world.questions[int(rng.integers(len(world.questions)))].metadata or {}
        search = draw_search(world.questions[i], rng, noisy=number % 2 == 1, top_k=5, other=other["subject"])
        drawn.append(search)
    return drawn


def first_samples(model: str, asked: Sequence[Search]) -> tuple[Sets, list[bool]]:
    """What the model writes before anything is checked, and which of it could not be read (no documents then)."""
    options = SimulationOptions(prompt="tiny", temperature=TEMPERATURE)
    prompts = [next(make_set(s.request, s.request.noisy is True, options, source="")) for s in asked]
    backend = TransformersBackend(model, device="cpu", dtype="float32", max_batch=64)
    parsed = [
        parse_documents(completion.text, search.request.top_k)
        for search, completion in zip(asked, backend.complete(prompts), strict=True)
    ]
    backend.close()
    sets = [(s, found.documents if found.problem is None else ()) for s, found in zip(asked, parsed, strict=True)]
    return sets, [found.problem is not None for found in parsed]


def answer(engine: SearchEngine, asked: Sequence[Search]) -> Sets:
    """The searches with what an engine returns for them: no documents where it failed."""
    results = engine.search([search.request for search in asked])
    return [(search, result.documents) for search, result in zip(asked, results, strict=True)]


def holds(search: Search, documents: Sequence[Document]) -> bool:
    """Whether the documents state what the search is to find: every step's answer that it asks for."""
    text = " \x01 ".join(full_text(document) for document in documents)
    return all(contains_answer(text, _spellings(search, wanted)) for wanted in search.wanted)


def _spellings(search: Search, wanted: str) -> tuple[str, ...]:
    answers = search.request.answers
    return answers if wanted == answers[0] else (wanted,)


def share(hits: Sequence[bool]) -> dict[str, float | int]:
    """A share with its 95 % Wilson interval."""
    n, z = len(hits), 1.96
    if not n:
        return {"n": 0}
    p = sum(hits) / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    return {"share": round(p, 4), "low": round(max(low, 0.0), 4), "high": round(min(high, 1.0), 4), "n": n}


def useful_shares(sets: Sets) -> dict[str, Any]:
    """How many useful sets hold the answer of their step: all that are on the path, by step, by form of the query."""
    useful = [(s, holds(s, documents)) for s, documents in sets if not s.request.noisy and s.wanted]
    steps = {
        "one hop": lambda s: s.hop == 0 and not s.request.steps,
        "first of two hops": lambda s: s.hop == 0 and bool(s.request.steps),
        "second of two hops": lambda s: s.hop == 1,
        "both hops at once": lambda s: s.hop is None,
    }
    return {
        "all": share([hit for _, hit in useful]),
        **{name: share([hit for s, hit in useful if fits(s)]) for name, fits in steps.items()},
        **{form: share([hit for s, hit in useful if s.form == form]) for form in FORMS if form != "off the path"},
    }


def early_shares(sets: Sets) -> dict[str, Any]:
    """How many useful sets hold the final answer although the query does not ask for it: the fewer, the better."""
    useful = [(s, any(leaks(d, s.request.answers) for d in found)) for s, found in sets if not s.request.noisy]
    return {
        "first of two hops": share([hit for s, hit in useful if s.hop == 0 and s.request.steps]),
        "off the path": share([hit for s, hit in useful if s.form == "off the path"]),
    }


def noisy_shares(sets: Sets) -> dict[str, Any]:
    """How many noisy sets hold a gold answer, as the guard sees it, or a step's answer that the query does not name."""
    noisy = [(s.request, documents) for s, documents in sets if s.request.noisy]
    stepwise = [
        (steps, documents) for request, documents in noisy if (steps := sought_answers(request)[len(request.answers) :])
    ]
    return {
        "answer": share([any(leaks(d, request.answers) for d in documents) for request, documents in noisy]),
        "answer of a step": share([any(leaks(d, steps) for d in documents) for steps, documents in stepwise]),
    }


def open_simulator(model: str) -> SimulatedEngine:
    """The engine of "simulated:tiny" with a model of one's own."""
    spec = {"kind": "simulated", "argument": f"hf:{model}", "prompt": "tiny", "device": "cpu", "dtype": "float32"}
    engine = make_engine({**spec, "max_batch": 64, "temperature": TEMPERATURE})
    assert isinstance(engine, SimulatedEngine)
    return engine


def quality(model: str, world: Dataset, count: int, seed: int) -> dict[str, Any]:
    """Shares and style of one simulator."""
    asked = searches(world, count, seed)
    raw, unusable = first_samples(model, asked)
    engine = open_simulator(model)
    returned = answer(engine, asked)
    blind = [replace(s, request=replace(s.request, steps=())) for s in asked if s.request.steps and not s.request.noisy]
    stats = engine.stats()
    told_nothing = answer(engine, blind)
    engine.close()
    real = answer(make_engine("corpus", dataset=world), asked)
    documents = {
        "simulator": [d for _, found in returned for d in found],
        "template": [d for s in asked for d in template_documents(s)],
        "real": [d for _, found in real for d in found],
    }
    half = len(documents["real"]) // 2
    split = {name: found[:half] for name, found in documents.items()}
    split["other real documents"] = documents["real"][half:][:half]
    lengths = {name: [len(d.text.split()) for d in found] for name, found in documents.items()}
    texts = [d.text for d in documents["simulator"]]
    return {
        "useful sets with the answer, first sample": useful_shares(raw),
        "useful sets with the answer, returned": useful_shares(returned),
        "useful sets with the answer, corpus engine": useful_shares(real),
        "useful sets with the final answer too early": {
            "simulator": early_shares(returned),
            "corpus engine": early_shares(real),
        },
        "useful sets with the answer, steps not told": {
            "second of two hops": share([holds(s, found) for s, found in told_nothing if s.hop == 1]),
            "first of two hops": share([holds(s, found) for s, found in told_nothing if s.hop == 0]),
        },
        "noisy sets with an answer, first sample": noisy_shares(raw),
        "noisy sets with an answer, returned": noisy_shares(returned),
        "unusable first samples": share(unusable),
        "failed searches": share([not found for _, found in returned]),
        "redactions": stats.redactions,
        "resamples": stats.resamples,
        "style distance to the real engine": {
            name: {part: round(value, 4) for part, value in style_distance(found, split["real"]).items()}
            for name, found in split.items()
            if name != "real"
        },
        "words per document": {
            name: [round(float(np.mean(n)), 2), round(float(np.std(n)), 2)] for name, n in lengths.items()
        },
        "distinct documents": round(len(set(texts)) / len(texts), 4),
        "distinct documents of the real engine": round(len({d.text for d in documents["real"]}) / len(texts), 4),
    }


def speed(model: str, world: Dataset, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """CPU time per document with one thread, and documents per second of wall time with all cores."""
    torch = require("torch", "train")
    engine = open_simulator(model)
    asked = searches(world, 512, 7)
    threads, at = torch.get_num_threads(), 0

    def run(count: int) -> int:
        nonlocal at
        at = (at + count) % (len(asked) - count + 1)
        return sum(len(documents) for _, documents in answer(engine, asked[at : at + count]))

    torch.set_num_threads(1)
    cases = [Case(f"batch of {count}", lambda count=count: run(count)) for count in (1, 16, 64)]  # type: ignore[misc]
    timings = measure(cases, rounds=arguments.rounds, seconds=arguments.seconds)
    torch.set_num_threads(threads)
    began, done = time.perf_counter(), 0
    while (wall := time.perf_counter() - began) < 4 * arguments.seconds:
        done += run(64)
    torch.set_num_threads(threads)
    engine.close()
    return timings, {"documents_per_s": round(done / wall, 1), "threads": threads, "searches in a batch": 64}


def main(argv: list[str] | None = None) -> int:
    """Measures, prints, and writes a JSON record."""
    parser = argparse.ArgumentParser(
        prog="zerosearch bench simulator-tiny", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--simulator", help="a directory of `zerosearch simulator tiny`; the shipped one by default")
    parser.add_argument("--searches", type=int, default=3000, help="searches, half of them noisy (3000)")
    parser.add_argument("--seed", type=int, default=0, help="of the test world and of the searches (0)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each case of the timing (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="least CPU seconds of a turn (2)")
    parser.add_argument("--output", type=Path, default=default_output("simulator-tiny"), help="the JSON record")
    arguments = parser.parse_args(argv)
    model = arguments.simulator or str(TINY_MODEL)
    world = make_world(WorldConfig(seed=arguments.seed, questions=4000), "test")
    found = quality(model, world, arguments.searches, arguments.seed)
    timings, wall = speed(model, world, arguments)
    print(json.dumps(found, indent=2))
    print_timings(timings, "document")
    print(json.dumps(wall))
    libraries = machine(["zerosearch-env", "torch", "transformers"])
    write_record(arguments.output, timings, quality=found, wall=wall, machine=libraries)
    print(f"written: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
