"""The four searches at the start of a command, and their verdict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sim_fakes import FakeBackend, numbered, passage

from zerosearch_agents.simulator.cli import main
from zerosearch_benchmarks.speed.chat_server import Call, Reply, ServerThread, chat, documents
from zerosearch_env.engines import ConstantEngine, make_engine
from zerosearch_env.engines.base import try_engine
from zerosearch_env.engines.simulated.engine import SimulatedEngine
from zerosearch_env.engines.simulated.fitness import KNOWN, fitness_requests
from zerosearch_env.engines.simulated.sets import SimulationOptions
from zerosearch_env.errors import ConfigError, EngineError
from zerosearch_env.llm import Completion, make
from zerosearch_env.types import Question

GOOD = "4 of 4 sets usable, 2 of 2 useful ones with the answer, 0 of 2 noisy ones with a leak: fit\n"


def engine(write: Any = None, probe: bool = True, **options: Any) -> SimulatedEngine:
    backend = FakeBackend(write or (lambda prompt, _: documents(prompt.text)))
    return SimulatedEngine(backend, options=SimulationOptions(**options), probe=probe)


def test_a_fit_model_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    backend = FakeBackend()
    made = SimulatedEngine(backend, cache=str(tmp_path / "cache"))
    try_engine(made, (), 3)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"simulated:fake: {GOOD}")
    assert backend.batches == [4], "one batch, and no second samples"
    assert made.stats().searches == made.stats().completions == made.stats().cache_misses == 0
    made.close()


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (
            [
                "I'm ready to help.",
                numbered("Paris", "b"),
                numbered("a", "b"),
                "Doc 1: Short.\nDoc 2: I hope this helps.",
            ],
            "2 of 4 sets usable, 0 of 2 useful ones with the answer, 0 of 2 noisy ones with a leak, 2 chat phrases, "
            "1 fragments: not fit. Tune it (zerosearch simulator train), begin its replies (the option prefill, for "
            "example 'Doc 1:'), or ask it with the prompt that it was tuned with",
        ),
        ([numbered("a", "b")], "4 of 4 sets usable, 0 of 2 useful ones with the answer, 0 of 2 noisy .*: not fit"),
        (
            [numbered("Paris", "Shakespeare in 1989 on Mars")],
            "4 of 4 sets usable, 2 of 2 useful ones with the answer, 2 of 2 noisy ones with a leak: not fit",
        ),
        (
            [numbered("Paris", "Shakespeare"), numbered("Shakespeare", "b"), numbered("1989", "b"), numbered("d", "e")],
            "4 of 4 .*, 1 of 2 noisy ones with a leak: fit$",
        ),
    ],
)
def test_verdicts(texts: list[str], line: str) -> None:
    written = texts * (4 // len(texts))
    pattern = line.replace("(", r"\(").replace(")", r"\)")
    made = engine(lambda _, n: written[n]).try_out((), 2)
    assert made is not None
    assert re.search(pattern, made), made


def test_with_a_prefill_it_is_not_advised() -> None:
    line = engine(lambda *_: numbered("a", "b"), prefill="Doc 1:").try_out((), 2) or ""
    assert "not fit. Tune it (zerosearch simulator train), or ask it with the prompt" in line


@pytest.mark.parametrize("write", [lambda *_: "I'm ready.", lambda *_: Completion(failure="no such model")])
def test_four_failures_are_an_error(write: Any) -> None:
    with pytest.raises(
        EngineError, match=r"none of 4 searches.* Tune it .*option probe to false. The first failure: no"
    ):
        engine(write).try_out((), 2)
    assert engine(write, probe=False).try_out((), 2) is None


def test_the_questions_are_the_dataset_s() -> None:
    questions = [
        Question(str(i), f"Who is {i}?", (f"x{i}",) * (i != 1), metadata={"chain": ["s", "x"]}) for i in range(9)
    ]
    found = fitness_requests(questions, 3)
    assert [request.question for request in found] == ["Who is 0?", "Who is 2?", "Who is 3?", "Who is 4?"]
    assert [request.noisy for request in found] == [False, False, True, True]
    assert [request.steps for request in found] == [("s",)] * 4
    assert [r.answers for r in fitness_requests(questions[:1], 3)] == [("x0",)] * 4
    assert [r.question for r in fitness_requests(questions[1:2], 3)] == [question.text for question in KNOWN]
    assert len({request.seed for request in found}) == 4


def test_other_engines_try_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    try_engine(ConstantEngine(), (), 5)
    assert capsys.readouterr().err == ""


def test_a_server_is_probed_too_and_the_option_switches_it_off() -> None:
    async def handler(call: Call) -> Reply:
        return chat(documents(call.body["messages"][0]["content"]))

    with ServerThread(handler) as server:
        for probe in (True, False):
            made = make_engine({"kind": f"simulated:openai:{server.url}", "model": "m", "probe": probe})
            assert (made.try_out((), 2) is not None) is probe  # type: ignore[attr-defined]
            made.close()
    with pytest.raises(ConfigError, match="probe must be true or false, got 'no'"):
        make_engine({"kind": "simulated:tiny", "probe": "no"})


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(make, "TransformersBackend", lambda *_, **__: FakeBackend())
    assert main(["probe", "--engine", "simulated:hf:x", "--top-k", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"simulated:fake: {GOOD}")
    assert "\nuseful:\n  - Passage 1 on " in out
    assert out.endswith("probe: fit True, usable 4, with answer 2\n")
    with pytest.raises(ConfigError, match="only simulated engines are probed"):
        main(["probe", "--engine", "corpus", "--dataset", "world"])
    monkeypatch.setattr(make, "TransformersBackend", lambda *_, **__: FakeBackend(lambda *_: passage("a mill")))
    with pytest.raises(EngineError, match="none of 4"):
        main(["probe", "--engine", "simulated:hf:x", "--top-k", "2"])
